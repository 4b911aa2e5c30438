"""Run folders, checkpoints and recorders."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Literal

from ppo_lm.config.field_types import MAY_CHANGE, NonNegativeFloat, NonNegativeInt, PositiveInt, Text, Topic
from ppo_lm.config.settings import Settings


@dataclasses.dataclass(kw_only=True)
class RecorderSettings(Settings):
    """The recorders of a run."""

    RUN = Topic("Run folder")

    recorders: Annotated[list[str] | None, MAY_CHANGE] = None
    """Recorders in addition to the screen and the files of the run folder: tensorboard, wandb, trackio, mlflow,
    module:class or file.py:class; repeat the option for several."""


@dataclasses.dataclass(kw_only=True)
class FolderSettings(RecorderSettings):
    """A run that always writes a folder. Each command has its own default for it."""

    RUN = Topic("Run folder")

    output_dir: Annotated[Text, MAY_CHANGE]
    """Folder to write to."""


@dataclasses.dataclass(kw_only=True)
class OptionalFolderSettings(RecorderSettings):
    """A run that writes a folder if one is named. Its command always writes one."""

    RUN = Topic("Run folder")

    COMMAND_FOLDER: ClassVar[str]
    """The folder of a command that names none."""

    output_dir: Annotated[str | None, MAY_CHANGE] = None
    """Folder to write to. Default: nothing is written."""


WRITES_RUN = (FolderSettings, OptionalFolderSettings)


@dataclasses.dataclass(kw_only=True)
class CheckpointSettings(Settings):
    """A run that can be resumed."""

    RUN = Topic("Run folder")

    save_every: Annotated[NonNegativeInt, MAY_CHANGE] = 10
    """Steps between checkpoints, the first before step 1; 0: only when the run is paused, and before its results are
    written."""
    keep_checkpoints: Annotated[PositiveInt, MAY_CHANGE] = 2
    """Number of intact checkpoints to keep. With 1, a damaged checkpoint has no predecessor to fall back on. A finished
    run keeps its last one."""


@dataclasses.dataclass(kw_only=True)
class StoppingSettings(Settings):
    """A run that may stop before its last step."""

    STOPPING = Topic("Stopping early")

    stop_metric: Annotated[str | None, MAY_CHANGE] = None
    """Stop when this metric no longer improves: a name from metrics.jsonl, such as score; of an evaluation, with the
    evaluation's name in front, such as sampled/score. Default: never."""
    stop_patience: Annotated[NonNegativeInt, MAY_CHANGE] = 0
    """Stop after this many steps, or evaluations, in a row without an improvement of stop_metric; 0 for never."""
    stop_mode: Annotated[Literal["max", "min"], MAY_CHANGE] = "max"
    """max if a higher stop_metric is better, min if a lower one is, such as loss."""
    stop_min_delta: Annotated[NonNegativeFloat, MAY_CHANGE] = 0.0
    """A change of stop_metric counts as an improvement if it is larger than this."""

    def clashes(self) -> list[str]:
        clashes = super().clashes()
        if self.stop_metric is not None and not self.stop_patience:
            clashes.append(
                f"stop_metric is {self.stop_metric} but stop_patience is 0, so nothing would stop; set stop_patience"
            )
        if self.stop_patience and self.stop_metric is None:
            clashes.append(f"stop_patience is {self.stop_patience} but stop_metric is not set; name a metric")
        return clashes
