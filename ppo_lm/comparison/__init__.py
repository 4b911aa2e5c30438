"""Comparing policies."""

from ppo_lm.comparison.report import RESULTS
from ppo_lm.comparison.results import Standing, compare
from ppo_lm.comparison.stage import run_comparison

__all__ = ["RESULTS", "Standing", "compare", "run_comparison"]
