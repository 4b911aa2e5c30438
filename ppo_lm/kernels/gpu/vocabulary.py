"""Launches of the kernels over rows of logits (`vocabulary_kernels`)."""

from __future__ import annotations

from typing import Any

import torch

COLUMNS = 4096  # at most, of a row that a program computes at once


def exponentials(logits: torch.Tensor, temperature: float, differentiate: bool, entropy: bool) -> tuple:
    """The fields of `ops.exponentials.Exponentials`."""
    (rows, width), weights, slopes = logits.shape, None, None
    highest, total, mean = _statistics(logits, temperature)
    if differentiate:
        weights, slopes = logits, logits.new_empty(rows, width) if entropy else None
        columns = min(next_power_of_2(width), COLUMNS)
        with torch.cuda.device_of(logits):
            _kernels().exponentials[rows, -(-width // columns)](
                logits, highest, mean, slopes, logits.stride(0), width, 1 / temperature, COLUMNS=columns
            )
    return highest, total, mean if entropy else None, weights, slopes


def sums_of_blocks(logits: torch.Tensor, temperature: float, block: int) -> tuple:
    """The fields of `ops.exponentials.SumsOfBlocks`, of `block` columns, a power of 2."""
    rows, width = logits.shape
    highest, total, mean = _statistics(logits, temperature)
    blocks = -(-width // block)
    at_once = min(next_power_of_2(blocks), COLUMNS // block)
    sums = torch.empty(rows, blocks, dtype=torch.float32, device=logits.device)
    with torch.cuda.device_of(logits):
        _kernels().sums_of_blocks[rows, -(-blocks // at_once)](
            logits, highest, sums, logits.stride(0), width, blocks, 1 / temperature, BLOCK=block, BLOCKS=at_once
        )
    return highest, total, mean, sums


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
    from ppo_lm.kernels.gpu import vocabulary_kernels

    return vocabulary_kernels
