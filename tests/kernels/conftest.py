import pytest
import torch

from tests.conftest import WHY_NO_KERNELS


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request):
    """A dtype that the kernels for CPUs have, where a compiler makes them."""
    if WHY_NO_KERNELS:
        pytest.skip(WHY_NO_KERNELS)
    return request.param
