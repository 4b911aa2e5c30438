"""What vLLM needs to serve an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values of its --max-lora-rank


def largest_rank(settings: Mapping[str, Any]) -> int | None:
    """The --max-lora-rank for an adapter with these PEFT settings; None if vLLM cannot load it: it takes one rank and
    one alpha for all layers, and no rank beyond its last."""
    if settings.get("rank_pattern") or settings.get("alpha_pattern"):
        return None
    return next((rank for rank in RANKS if rank >= settings["r"]), None)
