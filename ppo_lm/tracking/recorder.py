"""The protocol of everything that listens to a run: the screen, the files, trackers, callbacks of your own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ppo_lm.errors import RecorderError, UserError, first_line
from ppo_lm.plugins import Registry
from ppo_lm.tracking.events import (
    CheckpointSaved,
    EvaluationDone,
    RunFinish,
    RunStart,
    SamplesDrawn,
    StepDone,
    StepSkipped,
)
from ppo_lm.tracking.health import Finding


class Recorder:
    """Receives what a run says. Override the methods you need; the rest do nothing.

    A method that returns a text asks the run to stop early, for that reason: it then ends in good order, as after its
    last step. An exception pauses the run: it is saved and can be resumed. Methods are called in the order of the
    run, `close` last, however the run ended.
    """

    def start(self, event: RunStart) -> str | None:
        """The run begins or continues."""

    def notice(self, text: str) -> str | None:
        """A sentence for whoever is watching."""

    def step(self, event: StepDone) -> str | None:
        """A step is done."""

    def skipped(self, event: StepSkipped) -> str | None:
        """A step trained nothing."""

    def samples(self, event: SamplesDrawn) -> str | None:
        """The responses of a step; only every `samples_every` steps."""

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


def make_recorders(specs: Iterable[str | Recorder]) -> Sequence[Recorder]:
    """The recorders that names stand for, each made without arguments; recorders are taken as they are."""
    return [spec if isinstance(spec, Recorder) else RECORDERS.find(spec)() for spec in specs]


class Broadcast:
    """Hands every event of a run to its recorders, in order, and remembers the first that asked the run to stop."""

    def __init__(self, recorders: Sequence[Recorder]):
        self.recorders = list(recorders)
        self.stop_reason: str | None = None

    def tell(self, method: str, event: Any) -> None:
        """Call `method` of every recorder. Raises `RecorderError` if one raises anything but a `UserError`."""
        for recorder in self.recorders:
            try:
                reason = getattr(recorder, method)(event)
            except UserError:
                raise
            except Exception as error:
                name = type(recorder).__name__
                raise RecorderError(
                    f"recorder {name} raised {type(error).__name__} in {method}(): {first_line(error)}"
                ) from error
            if reason is not None and self.stop_reason is None:
                self.stop_reason = str(reason)

    def close(self) -> None:
        """Close every recorder."""
        for recorder in self.recorders:
            recorder.close()
