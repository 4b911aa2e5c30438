"""Where data comes from; shared by all commands."""

from __future__ import annotations

import dataclasses

from ppo_lm.config.field_types import NonNegativeInt, Text, Topic
from ppo_lm.config.settings import Settings


@dataclasses.dataclass(kw_only=True)
class SourceSettings(Settings):
    """How a data source is read."""

    DATA = Topic("Data")

    data_split: Text = "train"
    """Split of a hub or saved data set."""
    data_subset: str | None = None
    """Subset (configuration) of a hub data set that has several."""
    prompt_column: Text = "prompt"
    """Column with the prompt: text, or a conversation (a list of role and content)."""
    max_prompt_tokens: NonNegativeInt = 0
    """Truncate longer prompts at the end of a sentence or paragraph, keeping a closing cue such as "TL;DR:"; 0 for no
    truncation."""
    allow_special_tokens: bool = False
    """Encode the text of a control token in the data, such as <|im_end|>, as this token. By default it is ordinary
    text, so that data cannot forge the turns of a conversation."""


@dataclasses.dataclass(kw_only=True)
class PromptSettings(SourceSettings):
    """Prompts, and how many of them are held out."""

    DATA = Topic("Data")

    prompts: str | None = None
    """Prompts: a .txt file (one per line), a .jsonl, .json, .csv or .parquet file, a folder of these, a saved data set,
    a hub data set id, or "embedded". Reward functions get the other columns."""

    EVALUATION = Topic("Evaluation")

    eval_prompts: NonNegativeInt = 128
    """Number of prompts held out for evaluation, at most a tenth of them; 0 for none."""
