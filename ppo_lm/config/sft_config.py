"""The settings of supervised fine-tuning. Does not import torch."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ppo_lm.config.field_types import MAY_CHANGE, NonNegativeInt, PositiveInt, Text, Topic
from ppo_lm.config.settings import checked
from ppo_lm.config.supervised_settings import SupervisedSettings


@checked
@dataclasses.dataclass(kw_only=True)
class SFTConfig(SupervisedSettings):
    """Every setting of `ppo-lm sft`."""

    EVERYDAY = (
        "model_name",
        "demonstrations",
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

    demonstrations: str | None = None
    """Prompts with completions, or whole conversations in a column `messages`: a .jsonl, .json, .csv or .parquet file,
    a folder of these, a hub data set id, or "embedded"."""
    completion_column: Text = "completion"
    """Column with the completion: text, or the assistant's message."""

    EVALUATION = Topic("Evaluation")

    rouge_samples: NonNegativeInt = 64
    """Number of held-out prompts to complete near-greedily and compare with the reference by ROUGE; 0 for none."""
    max_new_tokens: PositiveInt = 128
    """Longest completion for ROUGE, in tokens."""

    RUN = Topic("Run folder")

    output_dir: Annotated[Text, MAY_CHANGE] = "runs/sft"
    """Folder for the merged model (a plain transformers model, from which PPO starts), the adapter if there is one,
    metrics and the data report."""
