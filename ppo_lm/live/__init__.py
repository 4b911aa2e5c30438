"""A run while it runs: a panel below what is printed on a terminal, a display in a notebook."""

from ppo_lm.live.screens import screens

__all__ = ["screens"]
