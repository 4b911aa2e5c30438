"""Our own passes against transformers' and peft's, on the device."""

import pytest
import torch

from tests.device.conftest import NETWORKS, make_policy

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


def rows_of_many_lengths(device, rows=7, width=60):
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 1500, (rows, width), generator=g)
    starts, ends = torch.randint(0, 20, (rows, 1), generator=g), torch.randint(30, width + 1, (rows, 1), generator=g)
    places = torch.arange(width)
    return ids.to(device), ((places >= starts) & (places < ends)).to(device)


def states_and_gradients(policy, ids, mask):
    base = policy.base
    with base.role(policy.role):
        hidden = base.hidden_states(ids, mask)[mask]
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2)).to(hidden)
    (hidden * weights).sum().backward()
    return hidden.detach(), torch.cat([p.grad.flatten() for p in policy.parameters()])


def distance(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_passes_give_the_states_and_gradients_of_transformers_and_peft_in_fp32(device, dtype, family):
    rows = rows_of_many_lengths(device)
    torch.backends.cuda.matmul.allow_tf32 = False
    expected, expected_gradients = states_and_gradients(make_policy(device, family, fast=False), *rows)
    policy = make_policy(device, family, dtype)
    assert policy.base.paths.why_not_accelerated is None
    states, gradients = states_and_gradients(policy, *rows)
    assert distance(states, expected) < TOLERANCE[dtype]
    assert distance(gradients, expected_gradients) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_gradients_of_two_passes_are_bit_equal(device, dtype):
    """A resumed run ends like one that was not interrupted."""
    rows = rows_of_many_lengths(device)
    first, again = (states_and_gradients(make_policy(device, "qwen3", dtype), *rows) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
