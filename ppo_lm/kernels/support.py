"""Where Triton kernels can be used: on most GPUs."""

from __future__ import annotations

import functools

import torch

from ppo_lm.errors import first_line
from ppo_lm.kernels.vocabulary import exponentials

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def can_take(*tensors: torch.Tensor) -> bool:
    """Whether kernels can take these tensors: all on one GPU, in fp32, bf16 or fp16, with rows that have no gaps."""
    device = tensors[0].device
    return (
        device.type == "cuda"
        and all(x.device == device and x.dtype in DTYPES and x.stride(-1) == 1 for x in tensors)
        and why_not(device, tensors[0].dtype) is None
    )


@functools.cache
def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a GPU cannot run the kernels, a clause; None if it can. Triton may be missing, or lack a compiler."""
    try:
        exponentials(torch.zeros(1, 1, device=device, dtype=dtype), 1.0, True, True)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:
        return f"Triton fails its trial: {type(error).__name__}: {first_line(error)}"
    return None
