"""Out-of-memory errors, however torch and the libraries below it report them."""

from __future__ import annotations

import torch

OUT_OF_MEMORY = (
    "out of memory",  # CUDA, its driver, HIP ("HIP out of memory"), mps ("MPS backend out of memory")
    "_status_alloc_failed",  # cuBLAS, cuDNN, cuSPARSE, cuSOLVER, hipBLAS
    "can't allocate memory",  # torch's CPU allocator on Linux and macOS
    "not enough memory",  # and on Windows
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is an out-of-memory error: torch's or Python's own class, or a `RuntimeError` with such a
    message. An illegal memory access is not one."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in OUT_OF_MEMORY)
