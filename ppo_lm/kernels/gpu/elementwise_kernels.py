"""The kernels that `elementwise` launches. They compute in fp32 and round once, to the dtype of what they write."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load(pointers, mask):
    return tl.load(pointers, mask, 0.0).to(tl.float32)


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
    heads,
    q_heads,
    q_eps,
    k_eps,
    SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """HEADS heads of a token, each as two halves (the coordinates that are rotated) in COLUMNS columns, a power of 2.
    Unless q_weight is None, they are normalised first: with q_weight those before q_heads, with k_weight the others."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    half = SIZE // 2
    column = tl.arange(0, COLUMNS)[None, :]
    inside = column < half
    mask = inside & (head < heads)
    x += token * token_stride + head * head_stride + column
    first, second = load(x, mask), load(x + half, mask)
    if q_weight is not None:
        is_q = head < q_heads
        mean = tl.sum(first * first + second * second, axis=1, keep_dims=True) / SIZE
        inverse = tl.rsqrt(mean + tl.where(is_q, q_eps, k_eps))
        q_weight += column
        k_weight += column
        first *= inverse * tl.where(is_q, load(q_weight, inside), load(k_weight, inside))
        second *= inverse * tl.where(is_q, load(q_weight + half, inside), load(k_weight + half, inside))
    cos += token * SIZE + column
    sin += token * SIZE + column
    out += (token * heads + head) * SIZE + column
    tl.store(out, first * load(cos, inside) + second * load(sin, inside), mask)
    tl.store(out + half, second * load(cos + half, inside) + first * load(sin + half, inside), mask)


@triton.jit
def rotate_gradients(
    grad,
    x,
    cos,
    sin,
    weight,
    out,
    grad_token_stride,
    grad_head_stride,
    token_stride,
    head_stride,
    heads,
    eps,
    SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The gradient of x, given that of `rotate`, for HEADS heads of a token that are normalised with one weight."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    half = SIZE // 2
    column = tl.arange(0, COLUMNS)[None, :]
    inside = column < half
    mask = inside & (head < heads)
    grad += token * grad_token_stride + head * grad_head_stride + column
    x += token * token_stride + head * head_stride + column
    cos += token * SIZE + column
    sin += token * SIZE + column
    weight += column
    out += (token * heads + head) * SIZE + column
    of_first, of_second = load(grad, mask), load(grad + half, mask)
    first, second = load(x, mask), load(x + half, mask)
    of_first, of_second = (
        (of_first * load(cos, inside) + of_second * load(sin + half, inside)) * load(weight, inside),
        (of_second * load(cos + half, inside) + of_first * load(sin, inside)) * load(weight + half, inside),
    )
    inverse = tl.rsqrt(tl.sum(first * first + second * second, axis=1, keep_dims=True) / SIZE + eps)
    along = tl.sum(of_first * first + of_second * second, axis=1, keep_dims=True) / SIZE * inverse * inverse
    tl.store(out, (of_first - first * along) * inverse, mask)
    tl.store(out + half, (of_second - second * along) * inverse, mask)


@triton.jit
def normalise(
    x, more, weight, summed, out, inverse, stride, more_stride, out_stride, eps, width, COLUMNS: tl.constexpr
):
    """A row of x or, unless `more` is None, of x + more, which goes to `summed`, normalised. `inverse` may be None.
    COLUMNS: `width` or more."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    mask = column < width
    z = load(x + row * stride + column, mask)
    if more is not None:
        rounded = (z + load(more + row * more_stride + column, mask)).to(summed.dtype.element_ty)
        tl.store(summed + row * width + column, rounded, mask)
        z = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(z * z, axis=0) / width + eps)
    if inverse is not None:
        tl.store(inverse + row, scale)
    tl.store(out + row * out_stride + column, z * scale * load(weight + column, mask), mask)


@triton.jit
def keep(
    k,
    v,
    keys,
    values,
    slots,
    places,
    k_token_stride,
    k_head_stride,
    v_token_stride,
    v_head_stride,
    slot_stride,
    head_stride,
    heads,
    SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The key and value of a token into its slot, at its place."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    mask = (head < heads) & (column < SIZE)
    at = tl.load(slots + token) * slot_stride + head * head_stride + tl.load(places + token) * SIZE + column
    tl.store(keys + at, tl.load(k + token * k_token_stride + head * k_head_stride + column, mask), mask)
    tl.store(values + at, tl.load(v + token * v_token_stride + head * v_head_stride + column, mask), mask)


@triton.jit
def swiglu(gate, up, out, gate_stride, up_stride, out_stride, width, COLUMNS: tl.constexpr):
    """COLUMNS columns of a row of silu(gate)·up."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < width
    g, u = load(gate + row * gate_stride + column, mask), load(up + row * up_stride + column, mask)
    tl.store(out + row * out_stride + column, g * tl.sigmoid(g) * u, mask)


@triton.jit
def swiglu_gradients(grad, gate, up, product, grad_up, gate_stride, up_stride, width, COLUMNS: tl.constexpr):
    """COLUMNS columns of a row of silu(gate)·up and of the gradients; that of the gate takes the place of `grad`."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < width
    at = row * width + column
    d = load(grad + at, mask)
    g, u = load(gate + row * gate_stride + column, mask), load(up + row * up_stride + column, mask)
    sigmoid = tl.sigmoid(g)
    tl.store(product + at, g * sigmoid * u, mask)
    tl.store(grad_up + at, d * g * sigmoid, mask)
    tl.store(grad + at, d * u * sigmoid * (1 + g * (1 - sigmoid)), mask)
