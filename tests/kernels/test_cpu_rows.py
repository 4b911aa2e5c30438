"""Our kernels over rows for CPUs: norms and sums over a vocabulary. Rotation and SwiGLU: `tests.device`."""

import pytest
import torch

from ppo_lm.fast.rms_norm import normalise, normalise_gradients
from ppo_lm.kernels import cpu
from ppo_lm.ops.exponentials import BLOCK, exponentials, sums_of_blocks
from tests.conftest import WHY_NO_KERNELS, use_no_kernels
from tests.kernels.elementwise_cases import relative_error
from tests.kernels.interpret_elementwise import passes
from tests.kernels.vocabulary_cases import CASES, expected, make_logits

pytestmark = pytest.mark.fast

OFF = {torch.float32: 1e-6, torch.bfloat16: 3e-3}


@pytest.mark.parametrize("shape", [(5, 8), (3, 100), (40, 576), (7, 3, 20)], ids=str)
def test_norms_give_what_the_formula_gives(shape, dtype):
    x, grad = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (0, 1))
    weight = (1 + torch.randn(shape[-1], generator=torch.Generator().manual_seed(2)) / 4).to(dtype)
    exact = [tensor.double().requires_grad_() for tensor in (x, weight)]
    wanted = exact[0] / (exact[0].square().mean(dim=-1, keepdim=True) + 1e-3).sqrt() * exact[1]
    of_x, of_weight = torch.autograd.grad(wanted, exact, grad.double())
    found, inverse = normalise(x, weight, 1e-3)
    grad_x, grad_weight = normalise_gradients(grad, x, inverse, weight, of_weight=True)
    assert relative_error(found, wanted.detach()) < OFF[dtype]
    assert relative_error(grad_x, of_x) < OFF[dtype]
    assert relative_error(grad_weight, of_weight) < 2 * OFF[dtype]
    more = torch.randn(*shape[:-1], shape[-1] + 5).to(dtype)[..., :-5]
    with_more, _ = normalise_gradients(grad, x, inverse, weight, of_weight=False, more=more)
    assert relative_error(with_more, of_x + more.double()) < OFF[dtype]


@pytest.mark.parametrize("name", CASES)
def test_sums_over_a_vocabulary_are_those_of_the_formulas(name, dtype):
    rows, width, _, part, temperature = CASES[name]
    case = (rows, width, dtype, part, temperature)
    *statistics, weights, _ = expected(*case)
    off = 1e-5 if dtype == torch.float32 else 5e-3
    for found, wanted in zip(exponentials(make_logits(*case), temperature, True, True), expected(*case), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=off, atol=off)
    blocks = torch.stack([block.sum(dim=1) for block in weights.split(BLOCK, dim=1)], dim=1)
    found = sums_of_blocks(make_logits(*case), temperature)
    for ours, wanted in zip(found, (*statistics, blocks), strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-5, atol=1e-5)


def test_a_token_without_a_chance_has_none(dtype):
    """Sampling must never draw it: exactly 0, not a small number."""
    logits = torch.tensor([[0.0, -torch.inf, -200.0, 1.0]], dtype=dtype)
    weights = exponentials(logits.clone(), 1.0, True, False).weights
    assert weights is not None and weights[0, 1] == 0 and weights[0, 2] == 0


def test_what_is_not_a_number_is_not_hidden(dtype):
    logits = torch.zeros(3, 100, dtype=dtype)
    logits[1, 70] = torch.nan
    highest, total, *_ = exponentials(logits, 1.0, True, True)
    assert total.isnan().flatten().tolist() == highest.isnan().flatten().tolist() == [False, True, False]
    x = torch.ones(3, 40, dtype=dtype)
    x[1, 39] = torch.nan
    for found in (normalise(x, torch.ones(40, dtype=dtype), 1e-6)[0], cpu.swiglu(x, x)):
        assert found.isnan().any(dim=1).tolist() == [False, True, False]


@pytest.mark.skipif(WHY_NO_KERNELS is not None, reason=str(WHY_NO_KERNELS))
def test_passes_with_kernels_give_the_states_and_gradients_of_passes_without(monkeypatch):
    with_kernels = passes()
    use_no_kernels(monkeypatch)
    without = passes()
    for ours, torchs in zip(with_kernels, without, strict=True):
        assert relative_error(ours, torchs.double()) < 1e-5
    assert not torch.equal(with_kernels[0], without[0])  # otherwise the same code ran twice
