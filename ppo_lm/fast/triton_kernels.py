"""The kernels that `kernels` launches. They compute in fp32 and round once, to the dtype of what they write."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rotate(
    x,
    cos,
    sin,
    q_weight,
    k_weight,
    out,
    token_stride,
    head_stride,
    cos_stride,
    sin_stride,
    heads,
    q_heads,
    q_eps,
    k_eps,
    SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    """A token's next HEADS heads, each in two halves, because they are what is rotated; HALF is the next power of 2.
    Unless q_weight is None, heads are normalised first: with q_weight the first q_heads, with k_weight the others."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, HALF)[None, :]
    inside = column < SIZE // 2
    mask = inside & (head < heads)
    at = x + token * token_stride + head * head_stride + column
    first = tl.load(at, mask, 0.0).to(tl.float32)
    second = tl.load(at + SIZE // 2, mask, 0.0).to(tl.float32)
    if q_weight is not None:
        is_q = head < q_heads
        mean = tl.sum(first * first + second * second, axis=1, keep_dims=True) / SIZE
        inverse = tl.rsqrt(mean + tl.where(is_q, q_eps, k_eps))
        weight = tl.where(is_q, tl.load(q_weight + column, inside), tl.load(k_weight + column, inside))
        first *= inverse * weight.to(tl.float32)
        column_2 = column + SIZE // 2
        weight = tl.where(is_q, tl.load(q_weight + column_2, inside), tl.load(k_weight + column_2, inside))
        second *= inverse * weight.to(tl.float32)
    cos += token * cos_stride + column
    sin += token * sin_stride + column
    out += (token * heads + head) * SIZE + column
    tl.store(out, first * tl.load(cos, inside).to(tl.float32) + second * tl.load(sin, inside).to(tl.float32), mask)
    cos += SIZE // 2
    sin += SIZE // 2
    out += SIZE // 2
    tl.store(out, second * tl.load(cos, inside).to(tl.float32) + first * tl.load(sin, inside).to(tl.float32), mask)


@triton.jit
def swiglu(gate, up, out, gate_stride, up_stride, width, BLOCK: tl.constexpr):
    """BLOCK columns of a row of silu(gate)·up."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < width
    g = tl.load(gate + row * gate_stride + column, mask, 0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + column, mask, 0.0).to(tl.float32)
    tl.store(out + row * width + column, g * tl.sigmoid(g) * u, mask)


@triton.jit
def swiglu_gradients(grad, gate, up, product, grad_up, gate_stride, up_stride, width, BLOCK: tl.constexpr):
    """BLOCK columns of a row of silu(gate)·up and of its gradients; that of the gate takes the place of `grad`."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < width
    at = row * width + column
    d = tl.load(grad + at, mask, 0.0).to(tl.float32)
    g = tl.load(gate + row * gate_stride + column, mask, 0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + column, mask, 0.0).to(tl.float32)
    sigmoid = tl.sigmoid(g)
    tl.store(product + at, g * sigmoid * u, mask)
    tl.store(grad_up + at, d * g * sigmoid, mask)
    tl.store(grad + at, d * u * sigmoid * (1 + g * (1 - sigmoid)), mask)
