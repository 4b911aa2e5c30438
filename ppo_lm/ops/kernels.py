"""Triton kernels (`triton_kernels`) in place of several passes over a tensor, where Triton runs: on most GPUs."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ppo_lm.errors import first_line
from ppo_lm.ops.memory import is_out_of_memory

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
COLUMNS = 4096  # at most, of a row that a program computes at once


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
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise
        return f"Triton fails its trial: {type(error).__name__}: {first_line(error)}"
    return None


def exponentials(logits: torch.Tensor, temperature: float, differentiate: bool, entropy: bool):
    """See `exponentials.exponentials`."""
    from ppo_lm.ops.exponentials import Exponentials

    (rows, width), weights, slopes = logits.shape, None, None
    highest, total, mean = _statistics(logits, temperature)
    if differentiate:
        weights, slopes = logits, logits.new_empty(rows, width) if entropy else None
        columns = min(next_power_of_2(width), COLUMNS)
        with torch.cuda.device_of(logits):
            _kernels().exponentials[rows, -(-width // columns)](
                logits, highest, mean, slopes, logits.stride(0), width, 1 / temperature, COLUMNS=columns
            )
    return Exponentials(highest, total, mean if entropy else None, weights, slopes)


def sums_of_blocks(logits: torch.Tensor, temperature: float):
    """See `exponentials.sums_of_blocks`."""
    from ppo_lm.ops.exponentials import BLOCK, SumsOfBlocks

    rows, width = logits.shape
    highest, total, mean = _statistics(logits, temperature)
    blocks = -(-width // BLOCK)
    at_once = min(next_power_of_2(blocks), COLUMNS // BLOCK)
    sums = torch.empty(rows, blocks, dtype=torch.float32, device=logits.device)
    with torch.cuda.device_of(logits):
        _kernels().sums_of_blocks[rows, -(-blocks // at_once)](
            logits, highest, sums, logits.stride(0), width, blocks, 1 / temperature, BLOCK=BLOCK, BLOCKS=at_once
        )
    return SumsOfBlocks(highest, total, mean, sums)


def _statistics(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """highest, total and mean, (3, n, 1)."""
    rows, width = logits.shape
    found = torch.empty(3, rows, 1, dtype=torch.float32, device=logits.device)
    with torch.cuda.device_of(logits):
        _kernels().statistics[rows,](
            logits, *found, logits.stride(0), width, 1 / temperature, COLUMNS=min(next_power_of_2(width), COLUMNS)
        )
    return found


def next_power_of_2(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _kernels() -> Any:
    """Imports Triton, so only where it is used."""
    from ppo_lm.ops import triton_kernels

    return triton_kernels
