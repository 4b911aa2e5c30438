"""The settings of reward modelling. Does not import torch."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ppo_lm.config.field_types import MAY_CHANGE, Rule, Text, Topic
from ppo_lm.config.settings import checked
from ppo_lm.config.supervised_settings import SupervisedSettings


@checked
@dataclasses.dataclass(kw_only=True)
class RewardConfig(SupervisedSettings):
    """Every setting of `ppo-lm reward`. `model_name` is the model that PPO will start from: the reward model is an
    adapter and a head on it."""

    EVERYDAY = (
        "model_name",
        "preferences",
        "epochs",
        "batch_size",
        "learning_rate",
        "max_tokens",
        "lora_r",
        "held_out",
        "seed",
        "output_dir",
    )

    DATA = Topic("Data")

    preferences: str | None = None
    """Pairs of a better and a worse completion: a .jsonl, .json, .csv or .parquet file, a folder of these, a hub data
    set id, or "embedded"."""
    chosen_column: Text = "chosen"
    """Column with the better completion: text, or a conversation. Without a prompt column, the prompt is what both
    completions start with."""
    rejected_column: Text = "rejected"
    """Column with the worse completion."""
    source_column: str | None = None
    """Column to report the accuracy by, such as the annotator or the origin of the text."""
    demonstrations: str | None = None
    """Reference completions: scores are normalised to mean 0 and standard deviation 1 on them. Default: the chosen
    completions of the training data."""
    completion_column: Text = "completion"
    """Column of `demonstrations` with the completion."""
    normalise_on: Annotated[int, Rule("be at least 2", lambda value: value >= 2)] = 256
    """Largest number of reference completions to normalise on."""

    RUN = Topic("Run folder")

    output_dir: Annotated[Text, MAY_CHANGE] = "runs/reward"
    """Folder for the reward model (adapter and head, for `ppo-lm train --reward`), metrics, and a report with
    plots."""

    def clashes(self) -> list[str]:
        clashes = super().clashes()
        if self.lora_r == 0:
            clashes.append("lora_r is 0; a reward model is an adapter on the base model, so set lora_r to at least 1")
        return clashes
