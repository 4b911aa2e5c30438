"""Errors a user can fix: each is one sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ppo_lm.terminal import printable

EXIT_CODES = (
    "0 done; 1 a problem that you can fix, which is printed; 2 an unknown command or option; 70 the run cannot go on; "
    "74 a file cannot be written; 75 the run was paused and saved, continue it with --resume; 130 or 143 stopped by a "
    "signal. See docs/resume.md."
)
RUST_REASON = re.compile(r"([^:\n]+) \(os error \d+\)")  # how safetensors and tokenizers show an error of the system


class UserError(Exception):
    """A problem the user can act on. The message is written for them; a traceback would not help."""

    exit_code = 1
    traceback: str | None = None
    """Of the user's own code, if the problem is in there."""


class ConfigError(UserError):
    """One or more invalid configuration values, all listed in `problems`; a single one makes a message of one line.
    `source`: the configuration they are in."""

    def __init__(self, problems: list[str], source: str | None = None):
        self.problems, self.source = list(problems), source
        where = f"{source}: " if source else ""
        if len(self.problems) == 1:
            super().__init__(where + self.problems[0])
            return
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{where}{len(self.problems)} problems:\n{lines}")

    def __reduce__(self) -> tuple:  # for pickle, which would hand `__init__` the message
        return type(self), (self.problems, self.source)

    @classmethod
    def of(cls, problem: str) -> ConfigError:
        """An error with a single problem."""
        return cls([problem])

    @classmethod
    def no_data(cls, field: str, otherwise: str = "") -> ConfigError:
        """The error if `field`, which names data, is not set. `otherwise`: what else to do."""
        return cls([f'{field} is not set; give a file, a hub data set, or "embedded"{otherwise}'])


class DataError(UserError):
    """Data that cannot be used."""


class ModelError(UserError):
    """A model that cannot be found, loaded, or used as requested."""


class RewardError(UserError):
    """A reward that cannot be loaded, raised an exception, or did not return one number per text."""


class RecorderError(UserError):
    """A recorder raised."""


class PartError(UserError):
    """A part of the user's own, such as an estimator, a loss or an engine, raised."""


class SamplerError(UserError):
    """The servers that sample cannot be used, or cannot be reached."""


class CheckpointError(UserError):
    """There is no checkpoint to resume from, or it does not fit the run."""


class Interrupted(UserError):
    """The process was asked to stop."""


class ProcessLost(UserError):
    """Another process of the run ended, or cannot be reached."""


class NumericalFault(UserError):
    """A number that goes into a step is NaN or infinite. `batch`: the `SAPairs` it was found in; None if there are none
    yet."""

    batch: Any = None


class RunStopped(UserError):
    """The run cannot continue as it is; its last checkpoint is from before the problem. Exit code: EX_SOFTWARE in
    sysexits.h."""

    exit_code = 70


class StorageError(UserError):
    """A file of the run cannot be written. Exit code: EX_IOERR in sysexits.h."""

    exit_code = 74


class RunPaused(UserError):
    """The run had to stop, and was saved so that it can be resumed. Exit code: EX_TEMPFAIL in sysexits.h."""

    exit_code = 75


class Problems:
    """Collects the problems of everything a configuration names, to report them all at once."""

    def __init__(self, source: str):
        self.source, self.found = source, []

    def attempt(self, load: Callable, *arguments) -> Any:
        """Return what `load` returns; if it raises a `UserError`, collect the error and return None."""
        try:
            return load(*arguments)
        except UserError as error:
            self.found.append(error)

    def raise_all(self) -> None:
        """Raise a single problem as it is, several as one `ConfigError`."""
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
    """Raise `StorageError`, with the system's reason, if the block fails to write `path`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _storage_problem(error)
        if reason is None:
            raise
        raise StorageError(f"{path} cannot be written: {reason}; free some space or fix the path") from error


def _storage_problem(error: Exception) -> str | None:
    """Why something could not be written, in the system's words; None if `error` is about something else."""
    if isinstance(error, OSError):
        return error.strerror or first_line(error)
    reason = RUST_REASON.search(str(error))
    if reason:
        return reason[1].strip()
    return first_line(error) if isinstance(error, SafetensorError) else None


def require(package: str, what: str, extra: str) -> None:
    """Raise `UserError` if `package`, which only `what` uses, is not installed. `extra`: the extra that installs it."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{what} needs the package {package}; install it with `pip install 'ppo-lm[{extra}]'`")


def first_line(error: BaseException) -> str:
    """The first line of another library's error, without its full stop, to quote in our own messages."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def show_user_errors_as_one_sentence() -> None:
    """For scripts: make Python print only the message of an uncaught `UserError`, without a traceback. The exit code
    (1) and other errors are unaffected."""
    previous = sys.excepthook

    def excepthook(kind, error, traceback):
        if issubclass(kind, UserError):
            print(f"error: {printable(str(error))}", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    sys.excepthook = excepthook
