"""Prompts, demonstrations, preferences: from files, folders, hub data sets and lists."""

from ppo_lm.data.examples import Demonstration, Preference, Prompt, wrap_completion
from ppo_lm.data.loading import RESERVED, load_demonstrations, load_preferences, load_prompts
from ppo_lm.data.prompts import PromptSet, split_rows
from ppo_lm.data.report import DataReport

__all__ = [
    "RESERVED",
    "DataReport",
    "Demonstration",
    "Preference",
    "Prompt",
    "PromptSet",
    "load_demonstrations",
    "load_preferences",
    "load_prompts",
    "split_rows",
    "wrap_completion",
]
