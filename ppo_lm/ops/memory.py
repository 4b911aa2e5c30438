"""Running out of memory, whichever way torch says so."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """True for CUDA's error, for that of torch's allocator on the CPU, and for Python's own."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in str(error) or "not enough memory" in str(error)
    )
