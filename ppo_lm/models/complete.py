"""Whether the weights that were loaded are a whole model: none missing, none of another shape, all numbers finite."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch

from ppo_lm.errors import ModelError

NAMED = 3  # weights that a message names


def check_complete(loading: Mapping[str, Any], what: str) -> None:
    """Raise `ModelError` if weights were missing from a model's files: transformers draws them at random. `loading`:
    what `from_pretrained` returns with `output_loading_info`."""
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ModelError(
            f"{what} is not whole: its files have no {list_some(missing)}, and random numbers would take their place; "
            "download or save it again"
        )


def check_finite(weights: Iterable[tuple[str, torch.Tensor]], what: str) -> None:
    """Raise `ModelError` if a weight is NaN or infinite."""
    damaged = [name for name, weight in weights if not _is_finite(weight.detach())]
    if damaged:
        raise ModelError(f"{what} is damaged: {list_some(damaged)} holds NaN or infinity; use an intact copy")


def list_some(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(list(names)[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _is_finite(weight: torch.Tensor) -> bool:
    """The sum of finite numbers can only be infinite if it overflows; then each is looked at."""
    if not weight.is_floating_point() or weight.sum(dtype=torch.float32).isfinite():
        return True
    return bool(weight.isfinite().all())
