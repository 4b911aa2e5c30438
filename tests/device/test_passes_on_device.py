"""Our own passes against transformers' and peft's, on the device."""

import pytest
import torch

from tests.device.conftest import make_policy

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
ROWS = {"llama": (7, 60), "qwen3": (7, 60), "heads of 128": (3, 400), "a window of 150": (3, 400)}
"""(rows, tokens) for each network; kernels work on blocks of 64 to 256 tokens."""


def rows_of_many_lengths(device, rows=7, width=60):
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 1500, (rows, width), generator=g)
    starts, ends = torch.randint(0, 20, (rows, 1), generator=g), torch.randint(30, width + 1, (rows, 1), generator=g)
    ends[1] = width
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


@pytest.mark.parametrize("family", ROWS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_passes_give_the_states_and_gradients_of_transformers_and_peft_in_fp32(device, dtype, family):
    rows = rows_of_many_lengths(device, *ROWS[family])
    torch.backends.cuda.matmul.allow_tf32 = False
    expected, expected_gradients = states_and_gradients(make_policy(device, family, fast=False), *rows)
    policy = make_policy(device, family, dtype)
    assert policy.base.paths.why_not_accelerated is None
    states, gradients = states_and_gradients(policy, *rows)
    assert distance(states, expected) < TOLERANCE[dtype]
    assert distance(gradients, expected_gradients) < TOLERANCE[dtype]


@pytest.mark.parametrize("family", ["qwen3", "heads of 128", "a window of 150"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_gradients_of_all_passes_are_bit_equal(device, dtype, family):
    """A resumed run ends like one that was not interrupted."""
    policy, rows = make_policy(device, family, dtype), rows_of_many_lengths(device, *ROWS[family])
    states, gradients = states_and_gradients(policy, *rows)
    for _ in range(3):
        for parameter in policy.parameters():
            parameter.grad = None
        again = states_and_gradients(policy, *rows)
        assert torch.equal(again[0], states)
        assert torch.equal(again[1], gradients)
