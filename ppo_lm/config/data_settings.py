"""Where data comes from; shared by all commands."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ppo_lm.config.settings import NOT_EMPTY, NOT_NEGATIVE, Settings


@dataclasses.dataclass
class SourceSettings(Settings):
    """How a data source is read."""

    data_split: str = "train"
    """The split of a hub data set or a saved data set to read."""
    data_subset: str | None = None
    """The subset (configuration) of a hub data set, if it has several."""
    prompt_column: str = "prompt"
    """The column that holds the prompt: text, or a conversation of role and content."""
    max_prompt_tokens: int = 0
    """Cut longer prompts at the end of a sentence or paragraph, keeping a closing cue such as TL;DR:; 0 cuts none."""

    RULES: ClassVar = {NOT_EMPTY: ("prompt_column", "data_split"), NOT_NEGATIVE: ("max_prompt_tokens",)}


@dataclasses.dataclass
class PromptSettings(SourceSettings):
    """Prompts, and those of them that are held out."""

    prompts: str | None = None
    """Prompts: "embedded", a .txt (one a line), .jsonl, .json, .csv or .parquet file, a folder of these or a saved data
    set, or a hub data set id. All other columns are passed on to the reward function."""
    eval_prompts: int = 128
    """How many prompts to hold out for the evaluations, drawn with the seed, at most half of them; 0 for none."""

    RULES: ClassVar = {NOT_NEGATIVE: ("eval_prompts",)}
