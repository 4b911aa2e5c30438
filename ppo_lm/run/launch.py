"""How the process was started."""

from __future__ import annotations

import os

from ppo_lm.distributed import find_place


def program() -> str:
    """What the user types to run the command line again: the process may have been started by `uv run`."""
    return f"{_uv()}ppo-lm"


def training_program() -> str:
    """What the user types to train in as many processes again."""
    place = find_place()
    if place.size == 1:
        return program()
    hosts = place.size // place.local_size
    others = f" --nnodes {hosts} --node-rank RANK --master-addr {os.environ['MASTER_ADDR']}" if hosts > 1 else ""
    return f"{_uv()}torchrun{others} --nproc-per-node {place.local_size} -m ppo_lm"


def _uv() -> str:
    return "uv run " if "UV_RUN_RECURSION_DEPTH" in os.environ else ""
