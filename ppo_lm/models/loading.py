"""How loading a model is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from ppo_lm.terminal.working import working


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Inside the block, a model loads: `working` shows it, in place of the bars of transformers and the hub's client,
    which would fill a log."""
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        with working(f"loading {name}"):
            yield
    finally:
        if shown:
            enable_progress_bar()
