"""Errors a user can mend: each is one sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


class UserError(Exception):
    """Something the user gave is wrong. The message is for them; a traceback would not help."""

    exit_code = 1


class ConfigError(UserError):
    """One or more configuration values are wrong; all of them are in `problems`. `source`: the configuration that they
    are in; None leaves a single problem as it is."""

    def __init__(self, problems: list[str], source: str | None = None):
        self.problems, self.source = list(problems), source
        if source is None and len(self.problems) == 1:
            super().__init__(self.problems[0])
            return
        count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{source}: {count}:\n{lines}" if source else f"{count}:\n{lines}")

    @classmethod
    def of(cls, problem: str) -> ConfigError:
        """A single problem."""
        return cls([problem])


class DataError(UserError):
    """A prompt, or a file of prompts, cannot be used."""


class ModelError(UserError):
    """A model cannot be found, loaded, or used in the way asked for."""


class RewardError(UserError):
    """A reward function or reward model cannot be loaded, raised, or returned something that is not one number a
    text."""


class RecorderError(UserError):
    """A recorder raised."""


class CheckpointError(UserError):
    """There is no checkpoint to go on from, or it does not fit."""


class Interrupted(UserError):
    """The process was asked to stop."""


class NumericalFault(UserError):
    """A number that a step is computed from is NaN or infinite. `batch`: the `SAPairs` it was found in, or None if
    there are none yet."""

    batch: Any = None


class RunStopped(UserError):
    """The run cannot go on as it is, and the last checkpoint is from before that: EX_SOFTWARE of sysexits.h."""

    exit_code = 70


class StorageError(UserError):
    """A file of the run cannot be written: EX_IOERR of sysexits.h."""

    exit_code = 74


class RunPaused(UserError):
    """The run could not go on, and was saved so that it can be resumed: EX_TEMPFAIL of sysexits.h."""

    exit_code = 75


class Problems:
    """What is wrong with everything that one configuration names, to be said at once."""

    def __init__(self, source: str):
        self.source, self.found = source, []

    def attempt(self, load: Callable, *arguments) -> Any:
        """What `load` returns; None, with its problem noted, if that raises a `UserError`."""
        try:
            return load(*arguments)
        except UserError as error:
            self.found.append(error)

    def raise_all(self) -> None:
        """Raise one problem as it is, and several as one `ConfigError`."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            sentences = [
                sentence
                for error in self.found
                for sentence in (error.problems if isinstance(error, ConfigError) else [str(error)])
            ]
            raise ConfigError(sentences, self.source) from self.found[0]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `StorageError` with the system's own reason if what is done inside the block cannot write `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"{path} cannot be written: {getattr(error, 'strerror', None) or first_line(error)}"
        ) from error


def require(package: str, what: str, extra: str) -> None:
    """Raise `UserError`, before it is needed, if a package that only `what` uses is not installed; `extra` brings
    it."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{what} needs the package {package}; install it with `pip install 'ppo-lm[{extra}]'`")


def first_line(error: BaseException) -> str:
    """The first line of another library's error, without its full stop, to quote in a sentence of ours."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def show_user_errors_as_one_sentence() -> None:
    """Make Python print an uncaught `UserError` as its message alone, for scripts; exit code 1 and other errors stay as
    they are."""
    previous = sys.excepthook

    def excepthook(kind, error, traceback):
        if issubclass(kind, UserError):
            print(f"error: {error}", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    sys.excepthook = excepthook
