"""Rotary embedding and SwiGLU against the formulas in fp64: our kernels, where the device runs them."""

import pytest
import torch

from ppo_lm import kernels
from tests.kernels.elementwise_cases import CASES, DTYPES, relative_error

OFF = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_they_give_what_the_formulas_give(device, dtype, name):
    found, expected = CASES[name].found(device, dtype), CASES[name].expected(device, dtype)
    own = kernels.find(torch.ones(1, device=device, dtype=dtype))
    rounds_once = own is kernels.gpu or (own and not name.startswith("gradient of heads"))
    assert len(found) == len(expected)
    for ours, exact in zip(found, expected):
        assert (ours.dtype, ours.shape, ours.is_contiguous()) == (dtype, exact.shape, True)
        assert relative_error(ours, exact) < OFF[dtype]
        if rounds_once and dtype == torch.bfloat16:
            assert relative_error(ours, exact) <= 1.05 * relative_error(exact.to(dtype), exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_leave_the_gate_and_up_as_they_were(device, dtype):
    """A graph that is kept for a second backward pass needs them."""
    case = CASES["gradients of swiglu (5, 1024)"]
    arguments, before = case.arguments(device, dtype), case.arguments(device, dtype)
    case.function(*arguments)
    assert all(torch.equal(now, then) for now, then in zip(arguments[1:], before[1:]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gpu_runs_the_kernels(device, dtype):
    if device.type != "cuda":
        pytest.skip("there is no GPU")
    pytest.importorskip("triton", reason="Triton is not installed")
    x = torch.ones(4, 4, device=device, dtype=dtype)
    assert kernels.why_not(x.device, dtype) is None
    assert kernels.find(x, x) is kernels.gpu and kernels.find_on_cpu(x) is None
    assert kernels.find(x, x.T[:, ::2]) is None and kernels.find(x.double()) is None
