"""How the process was started."""

from __future__ import annotations

import os


def program() -> str:
    """What the user types to run the command line again: the process may have been started by `uv run`."""
    return "uv run ppo-lm" if "UV_RUN_RECURSION_DEPTH" in os.environ else "ppo-lm"
