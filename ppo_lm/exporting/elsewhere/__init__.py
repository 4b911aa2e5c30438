"""What other programs need to repeat a PPO run: verl and OpenRLHF, for more GPUs than one machine has."""

from ppo_lm.exporting.elsewhere.content import PROGRAMS, Elsewhere

__all__ = ["PROGRAMS", "Elsewhere"]
