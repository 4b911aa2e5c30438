"""A run in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ppo_lm.config.files import dump_settings
from ppo_lm.tracking.events import RunStart
from ppo_lm.tracking.recorder import RECORDERS
from ppo_lm.tracking.tracker import Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
TEXT = "/text_summary"  # what the writer appends to the names of texts


@RECORDERS.register("tensorboard")
class TensorBoard(Tracker):
    """Event files in `tensorboard/` of the run's folder, with tables, alerts and settings as texts. What a resumed run
    does again, TensorBoard forgets."""

    needs = ("tensorboard",)
    writer: SummaryWriter | None = None

    def open(self, event: RunStart, folder: Path) -> Mapping[str, int]:
        """Forget the steps after `event.done`."""
        from torch.utils.tensorboard import SummaryWriter

        held = _last_steps(folder / FOLDER)
        self.writer = SummaryWriter(str(folder / FOLDER), purge_step=event.done + 1 if held else None)
        self._text("settings", dump_settings(event.config), event.done)
        return {name: min(step, event.done) for name, step in held.items()}

    def scalars(self, numbers: Mapping[str, float], step: int) -> None:
        """A scalar each."""
        assert self.writer is not None
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()  # or else a kill loses up to two minutes

    def table(self, name: str, rows: Sequence[Mapping[str, object]], step: int) -> None:
        """One text."""
        shown = [f"{row['prompt']}\n\n→ {row['completion']}\n\nscore {row['score']:.4g}" for row in rows]
        self._text(name, "\n\n\n".join(shown), step)

    def alert(self, kind: str, text: str, step: int) -> None:
        """A text."""
        self._text(kind, text, step)

    def close(self) -> None:
        """Write what is left."""
        if self.writer is not None:
            self.writer.close()

    def _text(self, name: str, text: str, step: int) -> None:
        """As code, which TensorBoard shows as it is: it would render Markdown."""
        assert self.writer is not None
        self.writer.add_text(name, "".join(f"    {line}\n" for line in text.splitlines()), step)
        self.writer.flush()


def _last_steps(folder: Path) -> dict[str, int]:
    """The last step of each scalar and text in event files."""
    if not folder.is_dir():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = EventAccumulator(str(folder), size_guidance={"scalars": 1, "tensors": 1})  # of each, the last is kept
    files.Reload()
    tags = files.Tags()
    return {
        **{name: files.Scalars(name)[-1].step for name in tags["scalars"]},
        **{name.removesuffix(TEXT): files.Tensors(name)[-1].step for name in tags["tensors"]},
    }
