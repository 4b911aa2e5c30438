"""Where a command writes, and who hears of it."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ppo_lm.config.field_types import MAY_CHANGE, NonNegativeInt, PositiveInt, Topic
from ppo_lm.config.settings import Settings


@dataclasses.dataclass(kw_only=True)
class OutputSettings(Settings):
    """The folder of a command, and its recorders."""

    RUN = Topic("Run folder")

    output_dir: Annotated[str | None, MAY_CHANGE] = None
    """Folder to write to. Default: nothing is written."""
    recorders: Annotated[list[str] | None, MAY_CHANGE] = None
    """More recorders, besides the screen and the files of the run folder: registered names, module:class or
    file.py:class; repeat the option for several."""


@dataclasses.dataclass(kw_only=True)
class RunSettings(OutputSettings):
    """A run that can be resumed."""

    RUN = Topic("Run folder")

    save_every: Annotated[NonNegativeInt, MAY_CHANGE] = 10
    """Steps between checkpoints, the first before step 1; 0: only when the run is paused. A finished run keeps none."""
    keep_checkpoints: Annotated[PositiveInt, MAY_CHANGE] = 2
    """Number of checkpoints to keep. With 1, a damaged checkpoint has no predecessor to fall back on."""
