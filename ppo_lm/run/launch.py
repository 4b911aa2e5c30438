"""How the process was started."""

from __future__ import annotations

import os

from ppo_lm.errors import ConfigError


def program() -> str:
    """What the user types to run the command line again: the process may have been started by `uv run`."""
    return "uv run ppo-lm" if "UV_RUN_RECURSION_DEPTH" in os.environ else "ppo-lm"


def check_one_process() -> None:
    """Raise `ConfigError` in one of several processes of a launcher such as torchrun: each would train its own model,
    in the same folder."""
    number = os.environ.get("WORLD_SIZE", "1")
    if "RANK" in os.environ and number != "1":
        raise ConfigError.of(
            f"this was started as {number} processes (torchrun or the like), but ppo_lm trains in one; start it with "
            "ppo-lm or python instead"
        )
