"""Sums over rows of logits."""

from __future__ import annotations

import torch

from ppo_lm.kernels.cpu.calls import kernel

BLOCK = 1024  # columns that are added up before the blocks are, where the caller wants no blocks


def exponentials(logits: torch.Tensor, temperature: float, differentiate: bool, entropy: bool) -> tuple:
    """The fields of `ops.exponentials.Exponentials`."""
    slopes = logits.new_empty(logits.shape) if differentiate and entropy else None
    highest, total, mean = _sums(logits, temperature, None, differentiate, slopes, BLOCK)
    return highest, total, mean if entropy else None, logits if differentiate else None, slopes


def sums_of_blocks(logits: torch.Tensor, temperature: float, block: int) -> tuple:
    """The fields of `ops.exponentials.SumsOfBlocks`, of `block` columns."""
    sums = torch.empty(len(logits), -(-logits.shape[1] // block))
    return *_sums(logits, temperature, sums, False, None, block), sums


def _sums(
    logits: torch.Tensor,
    temperature: float,
    sums: torch.Tensor | None,
    differentiate: bool,
    slopes: torch.Tensor | None,
    block: int,
) -> torch.Tensor:
    """highest, total and mean, (3, n, 1)."""
    rows, width = logits.shape
    found = torch.empty(3, rows, 1)
    addresses = (
        logits.data_ptr(),
        found.data_ptr(),
        None if sums is None else sums.data_ptr(),
        logits.data_ptr() if differentiate else None,
        None if slopes is None else slopes.data_ptr(),
    )
    kernel("exponentials", logits.dtype)(*addresses, 1 / temperature, rows, width, logits.stride(0), block)
    return found
