"""Root-mean-square normalisation against the formula in fp64, differentiated by torch."""

import pytest
import torch

from ppo_lm.fast.rms_norm import normalise, normalise_gradients

OFF = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


def formula(x, weight, eps):
    return x * (x.square().mean(dim=-1, keepdim=True) + eps).rsqrt() * weight


@pytest.mark.parametrize("dtype", OFF, ids=str)
@pytest.mark.parametrize("of_weight", [False, True])
@pytest.mark.parametrize("heads", [False, True], ids=["hidden states", "heads that are not contiguous"])
def test_it_and_its_gradients_are_those_of_the_formula(device, dtype, of_weight, heads):
    g = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(300, 6, 64, generator=g).to(device, dtype) for _ in range(2))
    x, grad = (part[:, :4] if heads else part[:, 0] for part in (x, grad))
    weight = torch.rand(64, generator=g).to(device, dtype)
    exact = [part.double().requires_grad_() for part in (x, weight)]
    expected = formula(*exact, 1e-2)
    expected.backward(grad.double())
    found, inverse = normalise(x, weight, 1e-2)
    assert (found.dtype, inverse.dtype, inverse.shape) == (dtype, torch.float32, (*x.shape[:-1], 1))
    assert torch.equal(normalise(x, weight, 1e-2, inverse)[0], found)
    grad_x, grad_weight = normalise_gradients(grad, x, inverse, weight, of_weight)
    pairs = [(found, expected.detach()), (grad_x, exact[0].grad)]
    if of_weight:
        pairs.append((grad_weight, exact[1].grad))
    else:
        assert grad_weight is None
    for ours, theirs in pairs:
        assert (ours.double() - theirs).norm() / theirs.norm() < OFF[dtype]
