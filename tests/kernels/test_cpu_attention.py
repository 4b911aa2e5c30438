"""Our attention for CPUs against the formula in fp64."""

import pytest
import torch
from torch.nn.functional import pad

from ppo_lm.kernels import cpu
from tests.kernels.elementwise_cases import relative_error

pytestmark = pytest.mark.fast

OFF = {torch.float32: 2e-6, torch.bfloat16: 3e-3}
CASES = {  # lengths of the rows, tokens after them, query heads, key and value heads, size of a head, window
    "one token": ([1], 0, 1, 1, 8, None),
    "rows of many lengths": ([40, 1, 33, 64, 7], 5, 4, 4, 16, None),
    "shared keys and values": ([50, 31], 0, 6, 2, 64, None),
    "a window": ([90, 3, 33], 2, 4, 2, 32, 9),
    "odd sizes": ([37, 70], 1, 3, 1, 80, None),
    "sizes that no vector divides": ([35, 2], 3, 2, 1, 20, 5),
    "a long row": ([700], 0, 2, 1, 32, None),
}


def make(case, dtype):
    """q, k, v out of one wider tensor, as a fused projection gives them, boundaries, and a gradient."""
    lengths, after, heads, kv_heads, size, _ = case
    g = torch.Generator().manual_seed(sum(lengths))
    tokens = sum(lengths) + after
    wide = torch.randn(tokens, heads + 2 * kv_heads, size, generator=g).to(dtype)
    grad = torch.randn(tokens, heads, size, generator=g).to(dtype)
    return wide.split([heads, kv_heads, kv_heads], dim=1), boundaries_of(lengths), grad


def boundaries_of(lengths):
    return pad(torch.tensor(lengths).cumsum(dim=0), (1, 0)).int()


def attend_exactly(q, k, v, lengths, window):
    """The formula, row by row and head by head."""
    groups, out, start = q.shape[1] // k.shape[1], [], 0
    for length in lengths:
        place = torch.arange(length)
        ahead = place[None] > place[:, None]
        if window:
            ahead |= place[None] <= place[:, None] - window
        rows = slice(start, start + length)
        heads = []
        for head in range(q.shape[1]):
            scores = q[rows, head] @ k[rows, head // groups].T * q.shape[2] ** -0.5
            heads.append(scores.masked_fill(ahead, -torch.inf).softmax(dim=1) @ v[rows, head // groups])
        out.append(torch.stack(heads, dim=1))
        start += length
    return torch.cat(out)


def attend_both_ways(qkv, boundaries, grad, window):
    scale = qkv[0].shape[2] ** -0.5
    out, kept = cpu.attend(*qkv, boundaries, scale, window)
    return out, *cpu.attend_gradients(grad, *qkv, boundaries, kept, scale, window)


@pytest.mark.parametrize("name", CASES)
def test_it_gives_what_the_formula_gives_and_nothing_after_the_rows(name, dtype):
    lengths, *_, window = CASES[name]
    qkv, boundaries, grad = make(CASES[name], dtype)
    exact = [x.double().requires_grad_() for x in qkv]
    expected = attend_exactly(*exact, lengths, window)
    gradients = torch.autograd.grad(expected, exact, grad[: sum(lengths)].double())
    everything = (expected.detach(), *(x[: sum(lengths)] for x in gradients))
    for found, wanted in zip(attend_both_ways(qkv, boundaries, grad, window), everything, strict=True):
        assert found.dtype == dtype and found.is_contiguous()
        assert not found[sum(lengths) :].any()
        off = (found[: sum(lengths)].double() - wanted).norm()  # a gradient may be 0
        assert off <= OFF[dtype] * wanted.norm()


def test_a_row_does_not_depend_on_the_others_or_on_the_number_of_threads(dtype):
    case = CASES["shared keys and values"]
    qkv, boundaries, grad = make(case, dtype)
    whole = attend_both_ways(qkv, boundaries, grad, None)
    start, end = boundaries.tolist()[1:]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = attend_both_ways([x[start:end] for x in qkv], boundaries_of([end - start]), grad[start:end], None)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one[start:end], other) for one, other in zip(whole, alone, strict=True))


def test_a_nan_spoils_only_its_own_row_from_its_place_on(dtype):
    (q, k, v), boundaries, grad = make(CASES["rows of many lengths"], dtype)
    k = k.clone()
    k[50, 2] = torch.nan  # in the third row, which begins at 41
    out = attend_both_ways((q, k, v), boundaries, grad, None)[0]
    spoilt = out.isnan().any(dim=2)
    assert spoilt[50:74, 2].all() and spoilt.sum() == 74 - 50


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if len(case[0]) == 1 or case[-1]])
def test_tokens_one_by_one_see_what_they_see_together(name, dtype):
    lengths, _, heads, kv_heads, size, window = CASES[name]
    (q, k, v), boundaries, _ = make(CASES[name], dtype)
    together, _ = cpu.attend(q, k, v, boundaries, size**-0.5, window)
    length, rows = max(lengths), torch.tensor(lengths)
    keys, values = torch.zeros(2, len(lengths), kv_heads, length + 3, size, dtype=dtype)
    for step in range(length):
        place = torch.minimum(torch.full_like(rows, step), rows - 1)  # a row that has ended writes its last token again
        at = boundaries[:-1].long() + place
        found = cpu.attend_cached(q[at], k[at], v[at], keys, values, place, size**-0.5, window)
        assert relative_error(found.view(-1, heads, size), together[at].double()) < OFF[dtype]
    first = k[: lengths[0]].transpose(0, 1)
    assert torch.equal(keys[0, :, : lengths[0]], first) and not keys[:, :, length:].any()
