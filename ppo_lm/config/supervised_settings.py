"""What the supervised stages share: supervised fine-tuning, reward modelling and value modelling."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from ppo_lm.config.data_settings import SourceSettings
from ppo_lm.config.field_types import MAY_CHANGE, SETS_LENGTH, NonNegativeInt, PositiveFloat, PositiveInt, Text, Topic
from ppo_lm.config.model_settings import ModelSettings
from ppo_lm.config.optimiser_settings import OptimiserSettings
from ppo_lm.config.run_settings import CheckpointSettings, FolderSettings, StoppingSettings


@dataclasses.dataclass(kw_only=True)
class SupervisedSettings(
    SourceSettings, ModelSettings, OptimiserSettings, StoppingSettings, CheckpointSettings, FolderSettings
):
    """Training on examples, in epochs."""

    DATA = Topic("Data")

    max_tokens: PositiveInt = 1024
    """Longest example, prompt and completion together. Longer ones are dropped and counted; see max_prompt_tokens."""

    EVALUATION = Topic("Evaluation")

    held_out: NonNegativeInt = 256
    """Number of examples held out for evaluation, at most a tenth of them. Examples with the same prompt stay
    together."""

    OPTIMISATION = Topic("Optimisation")

    batch_size: PositiveInt = 32
    """Examples per optimiser step."""
    epochs: Annotated[PositiveInt, SETS_LENGTH] = 1
    """Passes over the data. With --resume, the run gets this length."""
    max_steps: Annotated[NonNegativeInt, SETS_LENGTH] = 0
    """Stop after this many optimiser steps; 0 for no limit. The learning rate schedule ends there too. With --resume,
    the run gets this length."""
    learning_rate: PositiveFloat = 1e-4
    """Peak learning rate, after 5% linear warm-up."""
    lr_schedule: Text = "cosine"
    """Decay of the learning rate after the warm-up: cosine, linear, cubic, inverse or constant; or your own function of
    the fraction of the run, as module:name or file.py:name."""
    max_grad_norm: PositiveFloat = 1.0
    """Clip the gradient norm at this value."""

    MEMORY = Topic("Memory and speed")

    micro_batch_size: PositiveInt = 8
    """Examples per forward pass. Changes memory and speed only, dropout aside."""

    STOPPING = Topic("Stopping early")

    stop_metric: Annotated[str | None, MAY_CHANGE] = None
    """Stop when this metric of the steps, such as loss, no longer improves. It is that of one batch, so choose a large
    stop_patience. Default: never."""
    stop_patience: Annotated[NonNegativeInt, MAY_CHANGE] = 0
    """Stop after this many steps in a row without an improvement of stop_metric; 0 for never."""
    stop_mode: Annotated[Literal["max", "min"], MAY_CHANGE] = "min"
    """min if a lower stop_metric is better, max if a higher one is."""

    RUN = Topic("Run folder")

    save_every: Annotated[NonNegativeInt, MAY_CHANGE] = 100
    """Steps between checkpoints, the first before step 1; 0: only when the run is paused, and before its results are
    written."""

    def clashes(self) -> list[str]:
        clashes = super().clashes()
        if "/" in (self.stop_metric or ""):
            clashes.append(
                f"stop_metric is {self.stop_metric}, a metric of an evaluation, but this command evaluates only before "
                "and after training; name one of the steps, such as loss"
            )
        return clashes
