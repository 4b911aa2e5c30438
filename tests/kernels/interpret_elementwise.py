"""python -m tests.kernels.interpret_elementwise FILE, with TRITON_INTERPRET=1: what the kernels give on a CPU, and what
the passes give with them."""

import sys

import torch

from ppo_lm import kernels
from ppo_lm.fast import attention
from tests.conftest import SMALL
from tests.device.conftest import make_policy
from tests.device.test_passes_on_device import rows_of_many_lengths, states_and_gradients
from tests.kernels.elementwise_cases import CASES, DTYPES

CPU = torch.device("cpu")


def passes() -> tuple[torch.Tensor, torch.Tensor]:
    """The trial that a network has to pass before it gets our own passes runs the decoder, too."""
    policy = make_policy(CPU, "qwen3", size=SMALL)
    assert policy.base.paths.why_not_accelerated is None, policy.base.paths.why_not_accelerated
    return states_and_gradients(policy, *rows_of_many_lengths(CPU, 2, 31))


if __name__ == "__main__":
    kernels.find = kernels.find_on_gpu = lambda *tensors: kernels.gpu
    attention.find_kernels = lambda *tensors: None  # on CPUs there are tokens after the rows, which they leave out
    found = {(name, dtype): case.found(CPU, dtype) for name, case in CASES.items() for dtype in DTYPES}
    torch.save((found, passes()), sys.argv[1])
