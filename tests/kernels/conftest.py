import pytest
import torch

from ppo_lm.kernels import cpu


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request):
    """A dtype that the kernels for CPUs have, where a compiler makes them."""
    try:
        cpu.load_library(request.param)
    except cpu.NoKernels as reason:
        pytest.skip(str(reason))
    return request.param
