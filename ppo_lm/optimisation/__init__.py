"""Optimisers, their schedules, and the supervised loop."""

from ppo_lm.optimisation.all_or_nothing import all_or_nothing
from ppo_lm.optimisation.optimiser import Optimiser
from ppo_lm.optimisation.parts import OPTIMISERS, SCHEDULES, OptimiserParts, find_optimiser_parts
from ppo_lm.optimisation.supervised_loop import LoopSettings, Progress, minimise

__all__ = [
    "OPTIMISERS",
    "SCHEDULES",
    "LoopSettings",
    "Optimiser",
    "OptimiserParts",
    "Progress",
    "all_or_nothing",
    "find_optimiser_parts",
    "minimise",
]
