"""The settings of reward modelling. Importing this imports no torch."""

from __future__ import annotations

from typing import ClassVar

from ppo_lm.config.settings import NOT_EMPTY, Rule, settings
from ppo_lm.config.sft_config import SupervisedSettings

AT_LEAST_TWO = Rule("at least 2", lambda value: value >= 2)


@settings
class RewardConfig(SupervisedSettings):
    """Every setting of `ppo-lm reward`. `model_name` is the model that PPO will start from: the reward model is an
    adapter and a head on it."""

    preferences: str | None = None
    """Comparisons of two completions: "embedded", a .jsonl, .json, .csv or .parquet file, a folder of these, or a hub
    data set id."""
    chosen_column: str = "chosen"
    """The column with the better completion: text, or a conversation. Without a prompt column, what both share at the
    start is the prompt."""
    rejected_column: str = "rejected"
    """The column with the worse one."""
    source_column: str | None = None
    """A column to report the accuracy by, such as who judged or where the text came from."""
    demonstrations: str | None = None
    """Reference completions that the scores are normalised on, to mean 0 and standard deviation 1; none: the chosen
    completions of the training data."""
    completion_column: str = "completion"
    """The column of `demonstrations` that holds the completion."""
    normalise_on: int = 256
    """How many reference completions to normalise on, at most."""
    output_dir: str = "runs/reward"
    """Folder of the run: reward (adapter and head, for `ppo-lm train --reward`), metrics, report with pictures."""

    RULES: ClassVar = {
        AT_LEAST_TWO: ("normalise_on",),
        NOT_EMPTY: ("chosen_column", "rejected_column", "completion_column", "output_dir"),
    }

    def clashes(self) -> list[str]:
        if self.lora_r == 0:
            return ["lora_r is 0; a reward model is an adapter on the shared base and needs a rank of at least 1"]
        return super().clashes()
