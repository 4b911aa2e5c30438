"""The kernels that `vocabulary` launches. They compute in fp32 and round once, to the dtype of what they write."""

from __future__ import annotations

import triton
import triton.language as tl

LOWEST = tl.constexpr(-1e30)  # in place of -inf, whose difference from itself is NaN


@triton.jit
def load(logits, column, width, scale):
    """Logits, scaled; `LOWEST` outside the row."""
    z = tl.load(logits + column, column < width, -float("inf")).to(tl.float32)
    return tl.maximum(z * scale, LOWEST, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def statistics(logits, highest, total, mean, stride, width, scale, COLUMNS: tl.constexpr):
    """The maximum of a row, the sum of its exponentials, and their mean exponent, in one pass: every column of a block
    keeps its own maximum and sums so far ("Online normalizer calculation for softmax", 1805.02867)."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    top = tl.full((COLUMNS,), LOWEST, tl.float32)
    count = tl.zeros((COLUMNS,), tl.float32)  # Σ exp(z − top)
    moment = tl.zeros((COLUMNS,), tl.float32)  # Σ exp(z − top)·z
    for start in range(0, width, COLUMNS):
        z = load(logits, start + tl.arange(0, COLUMNS), width, scale)
        higher = tl.maximum(top, z, propagate_nan=tl.PropagateNan.ALL)
        shrink, weight = tl.exp(top - higher), tl.exp(z - higher)
        count = count * shrink + weight
        moment = moment * shrink + weight * z
        top = higher
    peak = tl.max(top, axis=0)
    shrink = tl.exp(top - peak)
    whole = tl.sum(count * shrink, axis=0)
    tl.store(highest + row, peak)
    tl.store(total + row, whole)
    tl.store(mean + row, tl.sum(moment * shrink, axis=0) / whole - peak)  # pyright: ignore[reportOperatorIssue]


@triton.jit
def exponentials(logits, highest, mean, slopes, stride, width, scale, COLUMNS: tl.constexpr):
    """COLUMNS columns of a row of exp(z − max z), in place of the logits, and, unless `slopes` is None, of these times
    z − max z − mean."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    logits += row * stride
    below = load(logits, column, width, scale) - tl.load(highest + row)
    weight = tl.exp(below)
    tl.store(logits + column, weight, column < width)
    if slopes is not None:
        tl.store(slopes + row * width + column, weight * (below - tl.load(mean + row)), column < width)


@triton.jit
def sums_of_blocks(logits, highest, sums, stride, width, blocks, scale, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    """The sums of exp(z − max z) over BLOCKS blocks of BLOCK columns of a row."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    column = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    below = load(logits + row * stride, column, width, scale) - tl.load(highest + row)
    tl.store(sums + row * blocks + block, tl.sum(tl.exp(below), axis=1), block < blocks)
