"""Through a frozen output layer, everything is as autograd finds it from all logits in fp64."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ppo_lm.ops import action_logprobs
from ppo_lm.ops.frozen_head import is_few

pytestmark = pytest.mark.fast

ROWS, ACTIONS, HIDDEN = 4, 6, 24


def make_case(vocabulary, kept=None, ties=False, bias=False, seed=0):
    """(states, layer, ids, mask, support) in fp64. Supports are the top `kept` of each row, some cut by top-p (-1)."""
    g = torch.Generator().manual_seed(seed)
    states = torch.randn(ROWS, ACTIONS, HIDDEN, generator=g, dtype=torch.float64)
    layer = nn.Linear(HIDDEN, vocabulary, bias=bias, dtype=torch.float64).requires_grad_(False)
    layer.weight.copy_(torch.randn(vocabulary, HIDDEN, generator=g, dtype=torch.float64) * 0.5)
    if bias:
        layer.bias.copy_(torch.randn(vocabulary, generator=g, dtype=torch.float64))
    if ties:  # every token has a twin, so the k-th place is shared
        layer.weight[1::2] = layer.weight[::2]
    ids = torch.randint(0, vocabulary, (ROWS, ACTIONS), generator=g)
    mask = torch.rand(ROWS, ACTIONS, generator=g) < 0.7
    if kept is None:
        return states, layer, ids, mask, None
    support = layer(states).topk(kept, dim=-1).indices
    ids = support.gather(2, torch.randint(0, max(kept // 2, 1), (ROWS, ACTIONS, 1), generator=g))[..., 0]
    cut = torch.randint(max(kept // 2, 1), kept + 1, (ROWS, ACTIONS, 1), generator=g)
    return states, layer, ids, mask, support.masked_fill(torch.arange(kept) >= cut, -1)


def by_autograd(states, layer, ids, mask, support, temperature):
    """Log-probabilities and entropies from all logits, (2, B, A), with a graph."""
    logits = (states @ layer.weight.T + (0 if layer.bias is None else layer.bias)) / temperature
    if support is not None:
        outside = torch.ones_like(logits, dtype=torch.bool)
        for row, action in torch.cartesian_prod(torch.arange(ROWS), torch.arange(ACTIONS)).tolist():
            outside[row, action, support[row, action][support[row, action] >= 0]] = False
        logits = logits.masked_fill(outside, -1e9)
    logs = logits.log_softmax(-1)
    entropies = -(logs.exp() * logs).sum(-1)
    return torch.where(mask, torch.stack([logs.gather(2, ids[..., None])[..., 0], entropies]), 0.0)


CASES = {
    "whole vocabulary": dict(vocabulary=300),
    "with a bias": dict(vocabulary=300, bias=True),
    "small support": dict(vocabulary=2000, kept=10),
    "small support, with a bias": dict(vocabulary=2000, kept=10, bias=True),
    "large support": dict(vocabulary=300, kept=200),
    "ties at the k-th place": dict(vocabulary=2000, kept=9, ties=True),
    "one token": dict(vocabulary=2000, kept=1),
    "everything kept": dict(vocabulary=40, kept=40),
}


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_autograd(name, dtype, temperature):
    states, layer, ids, mask, support = make_case(**CASES[name])
    rounded = copy.deepcopy(layer).to(dtype)
    layer.load_state_dict(rounded.state_dict())
    leaf = states.to(dtype).requires_grad_()
    exact = leaf.detach().double().requires_grad_()
    ours = action_logprobs(
        leaf, rounded, ids, mask, temperature=temperature, support_ids=support, chunk=5, entropy=True
    )
    expected = by_autograd(exact, layer, ids, mask, support, temperature)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=tolerance)
    weights = torch.linspace(-1, 2, ours.numel(), dtype=torch.float64).view_as(ours)
    (ours * weights.to(ours.dtype)).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=0, atol=tolerance)
    assert exact.grad.abs().max() > 0.3 or CASES[name].get("kept") == 1


def test_a_small_support_needs_no_logits_of_other_tokens():
    states, layer, ids, mask, support = make_case(vocabulary=2000, kept=10)
    assert is_few(10, 2000) and not is_few(200, 300)
    other = torch.ones(2000, dtype=torch.bool)
    other[support[mask]] = other[ids[mask]] = False
    expected = action_logprobs(states, layer, ids, mask, support_ids=support)
    layer.weight[other] = torch.nan
    layer.weight[0] = layer.weight[0].nan_to_num()  # stands in for -1
    leaf = states.clone().requires_grad_()
    found = action_logprobs(leaf, layer, ids, mask, support_ids=support)
    found.sum().backward()
    torch.testing.assert_close(found, expected)
    assert leaf.grad.isfinite().all() and leaf.grad[~mask].abs().max() == 0


def test_the_backward_pass_computes_no_logits():
    """Each of the 300 logits of a row is computed once and used once for its gradient; checkpointing would do a third
    product."""
    states, layer, ids, mask, _ = make_case(vocabulary=300)
    product = 2 * HIDDEN * 300
    with FlopCounterMode(display=False) as counted:
        found = action_logprobs(states.requires_grad_(), layer, ids, mask, chunk=4)
    assert counted.get_total_flops() == 2 * product * mask.sum()
    with FlopCounterMode(display=False) as counted:
        found.sum().backward()
    assert counted.get_total_flops() == 0
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        action_logprobs(states, layer, ids, mask, entropy=True)
    assert counted.get_total_flops() == product * mask.sum()


def test_a_layer_that_is_trained_gets_its_gradient():
    states, layer, ids, mask, support = make_case(vocabulary=2000, kept=10, bias=True)
    layer.requires_grad_(True)
    gradients = []
    for head in (layer, lambda hidden: nn.functional.linear(hidden, layer.weight, layer.bias)):
        layer.zero_grad()
        action_logprobs(states, head, ids, mask, support_ids=support, chunk=5).sum().backward()
        gradients.append((layer.weight.grad, layer.bias.grad))
    torch.testing.assert_close(*gradients)
    assert gradients[0][0].abs().max() > 0.1
