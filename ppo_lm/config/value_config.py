"""The settings of value modelling. Importing this imports no torch."""

from __future__ import annotations

from typing import ClassVar

from ppo_lm.config.reward_settings import RewardSettings
from ppo_lm.config.settings import NOT_EMPTY, SHARE, settings
from ppo_lm.config.sft_config import SupervisedSettings


@settings
class ValueConfig(RewardSettings, SupervisedSettings):
    """Every setting of `ppo-lm value`. `model_name` is the model that PPO will start from: the value model is an
    adapter and a head on it. The rewards are those that will score in PPO, with the same weights; one must be named."""

    demonstrations: str | None = None
    """Prompts with completions such as the policy writes at first, which is what it was fine-tuned on: "embedded", a
    .jsonl, .json, .csv or .parquet file, a folder of these, or a hub data set id."""
    completion_column: str = "completion"
    """The column that holds the completion: text, or the assistant's message."""
    gamma: float = 1.0
    """PPO's discount per token."""
    output_dir: str = "runs/value"
    """Folder of the run: value (adapter and head, for `ppo-lm train --value_model`), metrics, data report."""

    RULES: ClassVar = {NOT_EMPTY: ("completion_column", "output_dir"), SHARE: ("gamma",)}

    def clashes(self) -> list[str]:
        if self.lora_r == 0:
            return ["lora_r is 0; the value model is an adapter on the shared base and needs a rank of at least 1"]
        return super().clashes()
