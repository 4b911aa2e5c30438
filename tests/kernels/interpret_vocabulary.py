"""python -m tests.kernels.interpret_vocabulary FILE, with TRITON_INTERPRET=1: what the kernels give on a CPU."""

import sys

import torch

from ppo_lm import kernels
from ppo_lm.ops.exponentials import exponentials, sums_of_blocks
from tests.kernels.vocabulary_cases import CASES, make_logits

if __name__ == "__main__":
    kernels.find = lambda *tensors: kernels.gpu
    found = {
        function.__name__: {name: list(function(make_logits(*case), case[-1], *more)) for name, case in CASES.items()}
        for function, more in ((exponentials, (True, True)), (sums_of_blocks, ()))
    }
    torch.save(found, sys.argv[1])
