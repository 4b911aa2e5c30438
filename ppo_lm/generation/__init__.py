"""`ppo-lm generate`: models that answer, side by side."""

from ppo_lm.generation.stage import run_generation

__all__ = ["run_generation"]
