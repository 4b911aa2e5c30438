"""The record of a run."""

from ppo_lm.tracking.run_log import RunLog

__all__ = ["RunLog"]
