"""`ppo-lm export`: what a run has trained, for other programs and for the hub."""

from ppo_lm.exporting.stage import Exported, run_export

__all__ = ["Exported", "run_export"]
