"""python -m tests.ops.interpret_kernels FILE, with TRITON_INTERPRET=1: what the kernels give on a CPU."""

import sys

import torch

from ppo_lm.ops import kernels
from ppo_lm.ops.exponentials import exponentials
from tests.ops.kernel_cases import CASES, make_logits

if __name__ == "__main__":
    kernels.can_take = lambda *tensors: True
    found = {name: list(exponentials(make_logits(*case), case[-1], True, True)) for name, case in CASES.items()}
    torch.save(found, sys.argv[1])
