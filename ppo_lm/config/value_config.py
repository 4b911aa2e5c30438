"""The settings of value modelling. Does not import torch."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ppo_lm.config.field_types import MAY_CHANGE, Fraction, Text, Topic
from ppo_lm.config.reward_settings import RewardSettings
from ppo_lm.config.settings import checked
from ppo_lm.config.supervised_settings import SupervisedSettings


@checked
@dataclasses.dataclass(kw_only=True)
class ValueConfig(RewardSettings, SupervisedSettings):
    """Every setting of `ppo-lm value`. `model_name` is the model that PPO will start from: the value model is an
    adapter and a head on it. Name the same rewards as in PPO, with the same weights."""

    EVERYDAY = (
        "model_name",
        "demonstrations",
        "reward",
        "epochs",
        "batch_size",
        "learning_rate",
        "max_tokens",
        "gamma",
        "seed",
        "output_dir",
    )

    DATA = Topic("Data")

    demonstrations: str | None = None
    """Prompts with completions like those of the initial policy, usually what it was fine-tuned on: a .jsonl, .json,
    .csv or .parquet file, a folder of these, a hub data set id, or "embedded"."""
    completion_column: Text = "completion"
    """Column with the completion: text, or the assistant's message."""

    ADVANTAGES = Topic("Advantages and values")

    gamma: Fraction = 1.0
    """Discount factor per token; use the same as in PPO."""

    RUN = Topic("Run folder")

    output_dir: Annotated[Text, MAY_CHANGE] = "runs/value"
    """Folder for the value model (adapter and head, for `ppo-lm train --value_model`), metrics and the data report."""

    def clashes(self) -> list[str]:
        clashes = super().clashes()
        if self.lora_r == 0:
            clashes.append("lora_r is 0; the value model is an adapter on the base model, so set lora_r to at least 1")
        return clashes
