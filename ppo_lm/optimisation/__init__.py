"""Optimisers, their schedules, and the supervised loop."""

from ppo_lm.optimisation.optimiser import Optimiser
from ppo_lm.optimisation.supervised_loop import Progress, count_steps, minimise

__all__ = ["Optimiser", "Progress", "count_steps", "minimise"]
