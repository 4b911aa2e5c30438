"""The kernels that `attention` launches: FlashAttention-2 (2307.08691) on packed rows of tokens.

The queries of the GROUP heads that share a key–value head are one sequence: token by token, head by head. Query i is
token i // GROUP's, so that a tile of queries reads its keys and values once for the whole group. A program computes a
tile of one row of tokens and one key–value head. Tokens and queries are counted from the beginning of their row; what
is read beyond its end is 0. Scores are in base 2: `scale` has a factor of log2(e). Sums are fp32; weights and their
gradients are rounded to the dtype of the heads before they are multiplied with them."""

from __future__ import annotations

import triton
import triton.language as tl

LOWEST = tl.constexpr(-1e30)  # in place of -inf, whose difference from itself is NaN
LN_2 = tl.constexpr(0.6931471805599453)
AT_ONCE = tl.constexpr(256)  # rows that `find_tile` looks at
ONE = tl.constexpr(1)
UNSPECIALISED = ["tokens", "rows", "kv_heads", "window"]


@triton.jit
def find_tile(boundaries, rows, place, PER_TOKEN: tl.constexpr, SIZE: tl.constexpr):
    """The token where the row of this place begins, how many it has, and the tile, which may be one too many. Each row
    has places for tiles of SIZE elements, of which a token has PER_TOKEN; they begin at boundaries[i]·PER_TOKEN // SIZE
    + i, since the floor of a sum is at least the sum of the floors."""
    row = -1
    for first in range(0, rows, AT_ONCE):
        i = first + tl.arange(0, AT_ONCE)
        begins = tl.load(boundaries + i, i < rows, 0)
        row += tl.sum(((begins * PER_TOKEN // SIZE + i <= place) & (i < rows)).to(tl.int32), axis=0)  # pyright: ignore[reportOperatorIssue]
    begin = tl.load(boundaries + row)
    return begin, tl.load(boundaries + row + 1) - begin, place - begin * PER_TOKEN // SIZE - row


@triton.jit
def find_queries(boundaries, rows, place, GROUP: tl.constexpr, QUERIES: tl.constexpr):
    """`find_tile` for tiles of queries, those that see most keys first; the tile may be negative."""
    begin, length, tile = find_tile(boundaries, rows, place, GROUP, QUERIES)
    return begin, length, tl.cdiv(length * GROUP, QUERIES) - 1 - tile


@triton.jit
def queries_of(tile, GROUP: tl.constexpr, QUERIES: tl.constexpr):
    """The first and the last token of a tile of queries, and these queries (n, 1), counted from that first token's."""
    first_token, last_token = tile * QUERIES // GROUP, (tile * QUERIES + QUERIES - 1) // GROUP
    return first_token, last_token, tile * QUERIES - first_token * GROUP + tl.arange(0, QUERIES)[:, None]


@triton.jit
def heads_of(tensor, first, element, stride, head_stride, GROUP: tl.constexpr, COLUMNS: tl.constexpr):
    """Pointers to elements (n, 1) of a sequence of GROUP heads per token, which starts at token `first`."""
    column = tl.arange(0, COLUMNS)[None, :]
    start = tensor + first.to(tl.int64) * stride
    return start + (element // GROUP * stride + element % GROUP * head_stride + column)


@triton.jit
def tokens_of(tensor, first, place, stride, COLUMNS: tl.constexpr):
    """Pointers to one head of the tokens first + place (n, 1)."""
    return places_of(tensor + first.to(tl.int64) * stride, place, stride, COLUMNS)


@triton.jit
def places_of(tensor, place, stride, COLUMNS: tl.constexpr):
    """Pointers to one head at each place (n, 1)."""
    return tensor + (place * stride + tl.arange(0, COLUMNS)[None, :])


@triton.jit
def load(pointers, mask, SIZE: tl.constexpr, COLUMNS: tl.constexpr):
    """SIZE columns; 0 in the other COLUMNS."""
    if SIZE == COLUMNS:
        return tl.load(pointers, mask, 0.0)
    return tl.load(pointers, mask & (tl.arange(0, COLUMNS)[None, :] < SIZE), 0.0)


@triton.jit
def store(pointers, x, mask, SIZE: tl.constexpr, COLUMNS: tl.constexpr):
    if SIZE != COLUMNS:
        mask = mask & (tl.arange(0, COLUMNS)[None, :] < SIZE)
    tl.store(pointers, x.to(pointers.dtype.element_ty), mask)


@triton.jit
def sees(token, key, window):
    visible = key <= token
    if window is not None:
        visible = visible & (key > token - window)
    return visible


@triton.jit
def is_cut(first_token, last_token, first_key, last_key, window):
    """Whether some token does not see some key."""
    cut = last_key > first_token
    if window is not None:
        cut = cut | (first_key <= last_token - window)
    return cut


@triton.jit
def seen_keys(first_token, last_token, length, window):
    """The first key that the tokens see, and the one after the last."""
    first = 0
    if window is not None:
        first = tl.maximum(first_token - window + 1, 0)
    return first, tl.minimum(last_token + 1, length)


@triton.jit
def fold(scores, values, highest, total, mixed, scale):
    """The maximum of the scores so far, the sum of their exponentials, and the sum of the values that these weigh, with
    more keys."""
    higher = tl.maximum(highest, tl.max(scores, axis=1, keep_dims=True) * scale)
    weights = tl.exp2(scores * scale - higher)
    shrink = tl.exp2(highest - higher)
    total = total * shrink + tl.sum(weights, axis=1, keep_dims=True)
    return higher, total, tl.dot(weights.to(values.dtype), values, mixed * shrink, input_precision="ieee")


@triton.jit(do_not_specialize=UNSPECIALISED)
def attend(
    q,
    k,
    v,
    boundaries,
    out,
    logsums,
    q_stride,
    q_head_stride,
    k_stride,
    k_head_stride,
    v_stride,
    v_head_stride,
    tokens,
    rows,
    kv_heads,
    scale,
    window,
    GROUP: tl.constexpr,
    SIZE: tl.constexpr,
    COLUMNS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """QUERIES queries' output, and the logarithms of their sums of exponentials, (KV, N, GROUP), in base 2."""
    kv_head = tl.program_id(0) % kv_heads
    begin, length, tile = find_queries(boundaries, rows, tl.program_id(0) // kv_heads, GROUP, QUERIES)
    if tile < 0:
        return
    first_token, last_token, element = queries_of(tile, GROUP, QUERIES)
    token = first_token + element // GROUP
    inside = token < length

    q += kv_head.to(tl.int64) * GROUP * q_head_stride
    k += kv_head.to(tl.int64) * k_head_stride
    v += kv_head.to(tl.int64) * v_head_stride
    queries = heads_of(q, begin + first_token, element, q_stride, q_head_stride, GROUP, COLUMNS)
    queries = load(queries, inside, SIZE, COLUMNS)
    place = tl.arange(0, KEYS)[:, None]
    highest = tl.full((QUERIES, 1), LOWEST, tl.float32)
    total = tl.zeros((QUERIES, 1), tl.float32)
    mixed = tl.zeros((QUERIES, COLUMNS), tl.float32)

    start, end = seen_keys(first_token, last_token, length, window)
    for first in range(start, end, KEYS):
        known = first + place < end
        keys = load(tokens_of(k, begin + first, place, k_stride, COLUMNS), known, SIZE, COLUMNS)
        values = load(tokens_of(v, begin + first, place, v_stride, COLUMNS), known, SIZE, COLUMNS)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee")
        key = first + tl.arange(0, KEYS)[None, :]  # a branch here, as below, would serialise the products
        scores = tl.where(sees(token, key, window), scores, -float("inf"))
        highest, total, mixed = fold(scores, values, highest, total, mixed, scale)

    out += kv_head * GROUP * SIZE
    at = heads_of(out, begin + first_token, element, kv_heads * GROUP * SIZE, SIZE, GROUP, COLUMNS)
    store(at, mixed / total, inside, SIZE, COLUMNS)
    logsums += (kv_head.to(tl.int64) * tokens + begin + first_token) * GROUP
    tl.store(logsums + element, highest + tl.log2(total), inside)


@triton.jit(do_not_specialize=["kv_heads", "window"])
def attend_cached(
    q,
    k,
    v,
    keys,
    values,
    places,
    out,
    q_stride,
    q_head_stride,
    k_stride,
    k_head_stride,
    v_stride,
    v_head_stride,
    slot_stride,
    head_stride,
    kv_heads,
    scale,
    window,
    GROUP: tl.constexpr,
    SIZE: tl.constexpr,
    COLUMNS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """The new token of a slot, for one key–value head: keeps its key and value at its place, and attends to them and to
    those before. QUERIES: GROUP or more."""
    kv_head = (tl.program_id(0) % kv_heads).to(tl.int64)
    slot = (tl.program_id(0) // kv_heads).to(tl.int64)
    newest = tl.load(places + slot).to(tl.int32)
    memory = slot * slot_stride + kv_head * head_stride
    keys += memory
    values += memory
    every = tl.arange(0, 1)[:, None]
    new_key = load(tokens_of(k + kv_head * k_head_stride, slot, every, k_stride, COLUMNS), every == 0, SIZE, COLUMNS)
    new_value = load(tokens_of(v + kv_head * v_head_stride, slot, every, v_stride, COLUMNS), every == 0, SIZE, COLUMNS)
    store(places_of(keys, newest + every, SIZE, COLUMNS), new_key, every == 0, SIZE, COLUMNS)
    store(places_of(values, newest + every, SIZE, COLUMNS), new_value, every == 0, SIZE, COLUMNS)

    element = tl.arange(0, QUERIES)[:, None]
    inside = element < GROUP
    queries = heads_of(q + kv_head * GROUP * q_head_stride, slot, element, q_stride, q_head_stride, QUERIES, COLUMNS)
    queries = load(queries, inside, SIZE, COLUMNS)
    highest = tl.sum(queries.to(tl.float32) * new_key.to(tl.float32), axis=1, keep_dims=True) * scale
    total = tl.full((QUERIES, 1), 1.0, tl.float32)
    mixed = tl.zeros((QUERIES, COLUMNS), tl.float32) + new_value.to(tl.float32)

    place = tl.arange(0, KEYS)[:, None]
    start, _ = seen_keys(newest, newest, newest + 1, window)
    for first in range(start, newest, KEYS):
        known = first + place < newest
        old_keys = load(places_of(keys, first + place, SIZE, COLUMNS), known, SIZE, COLUMNS)
        old_values = load(places_of(values, first + place, SIZE, COLUMNS), known, SIZE, COLUMNS)
        scores = tl.dot(queries, tl.trans(old_keys), input_precision="ieee")
        scores = tl.where(first + tl.arange(0, KEYS)[None, :] < newest, scores, -float("inf"))
        highest, total, mixed = fold(scores, old_values, highest, total, mixed, scale)

    out += (slot * kv_heads + kv_head) * GROUP * SIZE
    store(places_of(out, element, SIZE, COLUMNS), mixed / total, inside, SIZE, COLUMNS)


@triton.jit(do_not_specialize=UNSPECIALISED)
def query_gradients(
    grad,
    q,
    k,
    v,
    boundaries,
    out,
    logsums,
    means,
    grad_q,
    grad_stride,
    grad_head_stride,
    q_stride,
    q_head_stride,
    k_stride,
    k_head_stride,
    v_stride,
    v_head_stride,
    tokens,
    rows,
    kv_heads,
    scale,
    window,
    GROUP: tl.constexpr,
    SIZE: tl.constexpr,
    COLUMNS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """The gradients of QUERIES queries, and the means of their weights' gradients, Σ grad·out, (KV, N, GROUP)."""
    kv_head = tl.program_id(0) % kv_heads
    begin, length, tile = find_queries(boundaries, rows, tl.program_id(0) // kv_heads, GROUP, QUERIES)
    if tile < 0:
        return
    first_token, last_token, element = queries_of(tile, GROUP, QUERIES)
    token = first_token + element // GROUP
    inside = token < length

    q += kv_head.to(tl.int64) * GROUP * q_head_stride
    k += kv_head.to(tl.int64) * k_head_stride
    v += kv_head.to(tl.int64) * v_head_stride
    grad += kv_head.to(tl.int64) * GROUP * grad_head_stride
    out += kv_head * GROUP * SIZE
    grad_q += kv_head * GROUP * SIZE
    width = kv_heads * GROUP * SIZE
    queries = heads_of(q, begin + first_token, element, q_stride, q_head_stride, GROUP, COLUMNS)
    queries = load(queries, inside, SIZE, COLUMNS)
    grads = heads_of(grad, begin + first_token, element, grad_stride, grad_head_stride, GROUP, COLUMNS)
    grads = load(grads, inside, SIZE, COLUMNS)
    outs = heads_of(out, begin + first_token, element, width, SIZE, GROUP, COLUMNS)
    outs = load(outs, inside, SIZE, COLUMNS)
    mean = tl.sum(grads.to(tl.float32) * outs.to(tl.float32), axis=1, keep_dims=True)
    start = (kv_head.to(tl.int64) * tokens + begin + first_token) * GROUP
    tl.store(means + start + element, mean, inside)
    logsum = tl.load(logsums + start + element, inside, 0.0)
    place = tl.arange(0, KEYS)[:, None]
    total = tl.zeros((QUERIES, COLUMNS), tl.float32)

    start, end = seen_keys(first_token, last_token, length, window)
    for first in range(start, end, KEYS):
        known = first + place < end
        keys = load(tokens_of(k, begin + first, place, k_stride, COLUMNS), known, SIZE, COLUMNS)
        values = load(tokens_of(v, begin + first, place, v_stride, COLUMNS), known, SIZE, COLUMNS)
        weights = tl.exp2(tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale - logsum)
        if is_cut(first_token, last_token, first, first + KEYS - 1, window):
            key = first + tl.arange(0, KEYS)[None, :]
            weights = tl.where(sees(token, key, window), weights, 0.0)
        slopes = weights * (tl.dot(grads, tl.trans(values), input_precision="ieee") - mean)
        total = tl.dot(slopes.to(keys.dtype), keys, total, input_precision="ieee")

    at = heads_of(grad_q, begin + first_token, element, width, SIZE, GROUP, COLUMNS)
    store(at, total * (scale * LN_2), inside, SIZE, COLUMNS)


@triton.jit(do_not_specialize=UNSPECIALISED)
def key_gradients(
    grad,
    q,
    k,
    v,
    boundaries,
    logsums,
    means,
    grad_k,
    grad_v,
    grad_stride,
    grad_head_stride,
    q_stride,
    q_head_stride,
    k_stride,
    k_head_stride,
    v_stride,
    v_head_stride,
    tokens,
    rows,
    kv_heads,
    scale,
    window,
    GROUP: tl.constexpr,
    SIZE: tl.constexpr,
    COLUMNS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """The gradients of KEYS keys and values. Scores and weights are (KEYS, QUERIES)."""
    kv_head = tl.program_id(0) % kv_heads
    begin, length, tile = find_tile(boundaries, rows, tl.program_id(0) // kv_heads, ONE, KEYS)
    first_key = tile * KEYS
    if first_key >= length:
        return
    place = tl.arange(0, KEYS)[:, None]
    key = first_key + place
    known = key < length

    q += kv_head.to(tl.int64) * GROUP * q_head_stride
    k += kv_head.to(tl.int64) * k_head_stride
    v += kv_head.to(tl.int64) * v_head_stride
    grad += kv_head.to(tl.int64) * GROUP * grad_head_stride
    logsums += (kv_head.to(tl.int64) * tokens + begin) * GROUP
    means += (kv_head.to(tl.int64) * tokens + begin) * GROUP
    keys = load(tokens_of(k, begin + first_key, place, k_stride, COLUMNS), known, SIZE, COLUMNS)
    values = load(tokens_of(v, begin + first_key, place, v_stride, COLUMNS), known, SIZE, COLUMNS)
    total_k = tl.zeros((KEYS, COLUMNS), tl.float32)
    total_v = tl.zeros((KEYS, COLUMNS), tl.float32)

    end = length
    if window is not None:
        end = tl.minimum(length, first_key + KEYS - 1 + window)
    for first in range(first_key * GROUP, end * GROUP, QUERIES):
        first_token, last_token = first // GROUP, (first + QUERIES - 1) // GROUP
        element = tl.arange(0, QUERIES)
        inside = first + element < end * GROUP
        logsum = tl.load(logsums + first + element, inside, 0.0)[None, :]
        mean = tl.load(means + first + element, inside, 0.0)[None, :]
        if QUERIES % GROUP != 0:  # else every tile begins with a token
            element += first - first_token * GROUP
        inside, below = inside[:, None], element[:, None]
        queries = heads_of(q, begin + first_token, below, q_stride, q_head_stride, GROUP, COLUMNS)
        queries = load(queries, inside, SIZE, COLUMNS)
        grads = heads_of(grad, begin + first_token, below, grad_stride, grad_head_stride, GROUP, COLUMNS)
        grads = load(grads, inside, SIZE, COLUMNS)
        weights = tl.exp2(tl.dot(keys, tl.trans(queries), input_precision="ieee") * scale - logsum)
        if is_cut(first_token, last_token, first_key, first_key + KEYS - 1, window):
            token = first_token + element[None, :] // GROUP
            weights = tl.where(sees(token, key, window), weights, 0.0)
        total_v = tl.dot(weights.to(grads.dtype), grads, total_v, input_precision="ieee")
        slopes = weights * (tl.dot(values, tl.trans(grads), input_precision="ieee") - mean)
        total_k = tl.dot(slopes.to(queries.dtype), queries, total_k, input_precision="ieee")

    grad_k += kv_head * SIZE
    grad_v += kv_head * SIZE
    at = tokens_of(grad_k, begin + first_key, place, kv_heads * SIZE, COLUMNS)
    store(at, total_k * (scale * LN_2), known, SIZE, COLUMNS)
    at = tokens_of(grad_v, begin + first_key, place, kv_heads * SIZE, COLUMNS)
    store(at, total_v, known, SIZE, COLUMNS)
