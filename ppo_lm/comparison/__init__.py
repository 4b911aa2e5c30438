"""Which of several policies is better."""

from ppo_lm.comparison.results import Comparison, compare
from ppo_lm.comparison.stage import run_comparison

__all__ = ["Comparison", "compare", "run_comparison"]
