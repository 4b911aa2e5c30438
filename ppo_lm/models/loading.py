"""How loading and saving a model is shown: not by the bars of transformers and the hub's client, which fill a log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from transformers import modeling_gguf_pytorch_utils
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
    gguf: Any = modeling_gguf_pytorch_utils  # whose one bar cannot be disabled otherwise
    shown, bar = is_progress_bar_enabled(), gguf.tqdm
    disable_progress_bar()
    gguf.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        gguf.tqdm = bar
        if shown:
            enable_progress_bar()
