"""Preferences from people: a local web page."""

from ppo_lm.collection.stage import run_collection

__all__ = ["run_collection"]
