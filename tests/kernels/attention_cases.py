"""What the attention kernels for GPUs are tested on, in two places: inputs, and what the formula gives in fp64."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from ppo_lm.kernels.gpu import attention

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.float16)  # the interpreter has no products in bf16
TILES = {
    "ATTEND": (32, 16),
    "QUERY_GRADIENTS": (16, 32),
    "KEY_GRADIENTS": (32, 16),
    "ATTEND_CACHED": (16, 16),
}  # tiles of queries and keys
ROWS = 4  # that `find_tile` looks at at once


class Case(NamedTuple):
    lengths: list[int]
    heads: int
    kv_heads: int
    size: int
    window: int | None = None

    @property
    def scale(self) -> float:
        return 1.3 * self.size**-0.5

    def boundaries(self) -> torch.Tensor:
        return pad(torch.tensor(self.lengths).cumsum(dim=0), (1, 0)).int()

    def tensors(self, dtype: torch.dtype) -> list[torch.Tensor]:
        """The gradient, and q, k and v, all out of wider tensors, as a fused projection gives them."""
        generator, heads = torch.Generator().manual_seed(sum(self.lengths)), [self.heads, self.kv_heads, self.kv_heads]
        wide = torch.randn(sum(self.lengths), sum(heads) + 1, self.size, generator=generator).to(dtype)
        grad = torch.randn(sum(self.lengths), self.heads, self.size + 3, generator=generator).to(dtype)
        return [grad[..., :-3], *wide[:, 1:].split(heads, dim=1)]

    def found(self, dtype: torch.dtype) -> list[torch.Tensor]:
        """The output, and the gradients of q, k and v."""
        return attend(self, *self.tensors(dtype), self.boundaries())

    def expected(self, dtype: torch.dtype) -> list[torch.Tensor]:
        grad, *qkv = (x.double().requires_grad_() for x in self.tensors(dtype))
        rows = zip(*(x.split(self.lengths) for x in qkv), strict=True)
        out = torch.cat([attend_exactly(*row, self.scale, self.window) for row in rows])
        return [out.detach(), *torch.autograd.grad(out, qkv, grad.detach())]


def attend(case: Case, grad, q, k, v, boundaries, own: ModuleType = attention) -> list[torch.Tensor]:
    out, kept = own.attend(q, k, v, boundaries, case.scale, case.window)
    return [out, *own.attend_gradients(grad, q, k, v, boundaries, kept, case.scale, case.window)]


def attend_exactly(q, k, v, scale, window):
    """The formula, for a row of tokens."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    place = torch.arange(len(q))
    hidden = place[None] > place[:, None]
    if window is not None:
        hidden |= place[None] <= place[:, None] - window
    scores = torch.einsum("thd,shd->hts", q, k) * scale
    return torch.einsum("hts,shd->thd", scores.masked_fill(hidden, -torch.inf).softmax(dim=2), v)


CASES = {
    "one token": Case([1], 1, 1, 16),
    "rows of many lengths": Case([40, 1, 33, 7, 16, 1], 4, 2, 16),
    "a head of its own for every query": Case([50, 3], 3, 3, 64),
    "keys and values that all heads share": Case([21, 2], 4, 1, 64, 5),
    "a group that divides no tile": Case([30, 18], 3, 1, 16, 20),
    "a size that is no power of 2": Case([37, 5], 4, 2, 80),
    "tokens that see themselves": Case([40, 1, 9], 4, 2, 16, 1),
    "a window shorter than a tile": Case([5, 70], 3, 3, 16, 5),
    "a window of several tiles": Case([100, 3], 4, 2, 16, 40),
    "a window longer than its rows": Case([20, 39], 2, 2, 80, 40),
}


def attend_token_by_token(
    case: Case, dtype: torch.dtype, own: ModuleType = attention, device: torch.device = CPU
) -> list[torch.Tensor]:
    """The output for rows of one length, by the kernel that keeps keys and values, and what it kept."""
    _, q, k, v = (x.to(device) for x in case.tensors(dtype))
    rows, length = len(case.lengths), case.lengths[0]
    q, k, v = (x.unflatten(0, (rows, length)) for x in (q, k, v))
    keys, values = torch.full(
        (2, rows + 1, case.kv_heads, length + 3, case.size), torch.nan, dtype=dtype, device=device
    )
    found = []
    for place in range(length):
        places = torch.full((rows,), place, device=device)
        found.append(
            own.attend_cached(*(x[:, place] for x in (q, k, v)), keys, values, places, case.scale, case.window).view(
                rows, case.heads, case.size
            )
        )
    kept = (x[:rows, :, :length].transpose(1, 2).flatten(0, 1) for x in (keys, values))
    return [torch.stack(found, dim=1).flatten(0, 1), *kept]


CACHED = {
    "grouped heads": Case([20, 20], 4, 2, 16),
    "a group that is no power of 2, and a window": Case([21], 3, 1, 16, 5),
    "a size that is no power of 2": Case([18, 18, 18], 2, 2, 80),
}
ALONE, WITH_OTHERS = Case([45], 4, 2, 16, 40), slice(9, 54)  # its place among rows of 9, 45 and 20 tokens


def alone_and_with_others() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What a row gives by itself, and between rows that are not numbers."""
    tensors = ALONE.tensors(torch.float16)
    between = [pad(x, (0, 0, 0, 0, 9, 20), value=torch.nan) for x in tensors]
    found = attend(ALONE, *between, torch.tensor([0, 9, 54, 74], dtype=torch.int32))
    return attend(ALONE, *tensors, ALONE.boundaries()), [x[WITH_OTHERS] for x in found]
