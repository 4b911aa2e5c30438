"""python -m tests.kernels.interpret_attention FILE, with TRITON_INTERPRET=1: what the kernels give on a CPU,
in tiles so small that short rows have several."""

import sys

import torch
import triton.language as tl

from ppo_lm.kernels.gpu import attention, attention_kernels
from tests.kernels.attention_cases import (
    CACHED,
    CASES,
    DTYPES,
    ROWS,
    TILES,
    alone_and_with_others,
    attend_token_by_token,
)

if __name__ == "__main__":
    for name, (queries, keys) in TILES.items():
        setattr(attention, name, getattr(attention, name)._replace(queries=queries, keys=keys))
    attention_kernels.AT_ONCE = tl.constexpr(ROWS)
    found = {(name, dtype): case.found(dtype) for name, case in CASES.items() for dtype in DTYPES}
    cached = {(name, dtype): attend_token_by_token(case, dtype) for name, case in CACHED.items() for dtype in DTYPES}
    torch.save((found, alone_and_with_others(), cached), sys.argv[1])
