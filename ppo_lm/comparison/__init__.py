"""Comparing policies."""

from ppo_lm.comparison.results import Standing, compare
from ppo_lm.comparison.stage import run_comparison

__all__ = ["Standing", "compare", "run_comparison"]
