"""Prompts, demonstrations, preferences."""

from ppo_lm.data.prompts import PromptSet, load_prompts

__all__ = ["PromptSet", "load_prompts"]
