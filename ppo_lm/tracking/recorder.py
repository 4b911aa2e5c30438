"""The protocol of everything that listens to a run: the screen, the files, trackers, your own callbacks."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from ppo_lm.errors import ConfigError, RecorderError, StorageError
from ppo_lm.health import Finding
from ppo_lm.plugins import Registry
from ppo_lm.tracking.events import (
    CheckpointSaved,
    EvaluationDone,
    RunFinish,
    RunStart,
    SamplesDrawn,
    StepDone,
    StepSkipped,
    TokensSeen,
)
from ppo_lm.user_code import user_code

Event = TypeVar("Event")


class Recorder:
    """Receives the events of a run. Override the methods you need; the rest do nothing.

    A method that returns a text asks the run to stop early, with the text as the reason: the run then ends normally, as
    after its last step. An exception pauses the run: it is saved and can be resumed. Methods are called in the order of
    events, `close` last, however the run ends.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """The packages that it imports, which an extra of its name installs."""

    notes: Sequence[str] = ()
    """What the user should know once it has started, one sentence each."""

    def start(self, event: RunStart) -> str | None:
        """The run begins or continues."""

    def notice(self, text: str) -> str | None:
        """A sentence for whoever is watching."""

    def step(self, event: StepDone) -> str | None:
        """A step is done."""

    def skipped(self, event: StepSkipped) -> str | None:
        """A step was skipped; nothing was trained."""

    def samples(self, event: SamplesDrawn) -> str | None:
        """The responses of a step; only every `samples_every` steps."""

    def tokens(self, event: TokensSeen) -> str | None:
        """A few responses token by token; only every `token_samples_every` steps."""

    def evaluation(self, event: EvaluationDone) -> str | None:
        """The policy was measured on held-out data."""

    def checkpoint(self, event: CheckpointSaved) -> str | None:
        """A checkpoint was saved."""

    def finding(self, event: Finding) -> str | None:
        """A known failure mode shows in the metrics for the first time."""

    def finish(self, event: RunFinish) -> str | None:
        """The run is over."""

    def close(self) -> None:
        """Release what you hold. Called exactly once."""


RECORDERS: Registry[type[Recorder]] = Registry("recorders")


def find_recorders(specs: Iterable[str] | None) -> list[type[Recorder]]:
    """The recorder classes with these names. Raises `ConfigError` for a name that is not found, is not a recorder
    class, or needs a package that is not installed."""
    found = [(spec, RECORDERS.find(spec)) for spec in specs or ()]
    for spec, kind in found:
        if not (isinstance(kind, type) and issubclass(kind, Recorder)):
            raise ConfigError.of(f"recorders: {spec!r} is not a class that inherits from ppo_lm.tracking.Recorder")
        missing = [package for package in kind.needs if importlib.util.find_spec(package) is None]
        if missing:
            raise ConfigError.of(
                f"recorders: {spec!r} needs {', '.join(missing)}; install it with: pip install 'ppo-lm[{spec}]'"
            )
    return [kind for _, kind in found]


def add_recorders(recorders: Sequence[Recorder], specs: Iterable[str] | None) -> list[Recorder]:
    """`recorders`, plus one of each named class that is not among them. Raises `RecorderError` if one cannot be
    created."""
    made = list(recorders)
    for kind in find_recorders(specs):
        if not any(type(recorder) is kind for recorder in made):
            with user_code(f"recorder {kind.__name__}", "when created", RecorderError):
                made.append(kind())
    return made


class Broadcast:
    """Hands every event of a run to its recorders, in order, and remembers the first reason to stop."""

    def __init__(self, recorders: Sequence[Recorder]):
        self.recorders = list(recorders)
        self.stop_reason: str | None = None

    def tell(self, method: Callable[[Any, Event], str | None], event: Event) -> None:
        """Call `method`, a method of `Recorder`, on every recorder. Raises `RecorderError` if one raises anything but a
        `StorageError`."""
        for recorder in self.recorders:
            with user_code(
                f"recorder {type(recorder).__name__}", f"in {method.__name__}()", RecorderError, StorageError
            ):
                reason = getattr(recorder, method.__name__)(event)
            if reason is not None and self.stop_reason is None:
                self.stop_reason = str(reason)

    def notes(self) -> list[str]:
        """The notes of every recorder."""
        return [note for recorder in self.recorders for note in recorder.notes]

    def by_name(self) -> dict[str, Recorder]:
        """The recorders by the name of their class; a second one of a class is "CLASS 2", and so on."""
        found, made = {}, Counter()
        for recorder in self.recorders:
            name = type(recorder).__name__
            made[name] += 1
            found[name if made[name] == 1 else f"{name} {made[name]}"] = recorder
        return found

    def close(self) -> list[RecorderError]:
        """Close every recorder. Returns the errors."""
        problems = []
        for recorder in self.recorders:
            try:
                with user_code(f"recorder {type(recorder).__name__}", "in close()", RecorderError):
                    recorder.close()
            except RecorderError as error:
                problems.append(error)
        return problems
