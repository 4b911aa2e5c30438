"""How loading and saving a model is shown: not by the bars of transformers and the hub's client, which fill a log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from ppo_lm.terminal.working import working


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Inside the block, a model loads: `working` shows it."""
    with without_bars(), working(f"loading {name}"):
        yield


@contextmanager
def without_bars() -> Iterator[None]:
    """Inside the block, transformers and the hub's client show no progress bars."""
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            enable_progress_bar()
