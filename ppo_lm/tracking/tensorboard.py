"""A run in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ppo_lm.config.files import dump_settings
from ppo_lm.data.examples import show_prompt
from ppo_lm.health import Finding
from ppo_lm.tracking.events import EvaluationDone, RunStart, SamplesDrawn, StepDone, StepSkipped
from ppo_lm.tracking.recorder import RECORDERS, Recorder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
SHOWN = 8  # samples of a step


@RECORDERS.register("tensorboard")
class TensorBoard(Recorder):
    """Event files in `tensorboard/` of the run's folder: every metric by step, the means of evaluations as
    `EVALUATION/METRIC`, and as texts the settings, samples, findings and skipped steps. What a resumed run does again,
    TensorBoard forgets."""

    needs = ("tensorboard",)

    def __init__(self) -> None:
        self.writer: SummaryWriter | None = None
        self.step_done = 0

    def start(self, event: RunStart) -> None:
        """Write the settings."""
        if event.folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        purge = event.done + 1 if event.done else None
        self.writer, self.step_done = SummaryWriter(str(event.folder / FOLDER), purge_step=purge), event.done
        if not event.done:
            self._text("settings", dump_settings(event.config), 0)

    def step(self, event: StepDone) -> None:
        """A point of each curve."""
        self.step_done = event.step
        self._scalars(event.metrics, event.step)

    def skipped(self, event: StepSkipped) -> None:
        """The reason."""
        self.step_done = event.step
        self._text("skipped", event.reason, event.step)

    def evaluation(self, event: EvaluationDone) -> None:
        """A point of each curve."""
        for name, means in event.means.items():
            self._scalars({f"{name}/{metric}": mean for metric, mean in means.items()}, event.step)

    def samples(self, event: SamplesDrawn) -> None:
        """Prompts, responses and scores."""
        shown = [
            f"{show_prompt(prompt)}\n\n→ {text}\n\nscore {score:.4g}"
            for prompt, text, score in zip(event.prompts[:SHOWN], event.completions, event.scores)
        ]
        self._text("samples", "\n\n\n".join(shown), event.step)

    def finding(self, event: Finding) -> None:
        """The sentence."""
        self._text("health", event.text, self.step_done)

    def close(self) -> None:
        """Write what is left."""
        if self.writer is not None:
            self.writer.close()

    def _scalars(self, numbers: Mapping[str, float], step: int) -> None:
        if self.writer is not None:
            for name, value in numbers.items():
                self.writer.add_scalar(name, value, step)

    def _text(self, name: str, text: str, step: int) -> None:
        """As code, which TensorBoard shows as it is: it would render Markdown."""
        if self.writer is not None:
            self.writer.add_text(name, "".join(f"    {line}\n" for line in text.splitlines()), step)
