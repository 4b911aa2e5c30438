import math

import pytest
import torch

from ppo_lm.ops import masked_mean, masked_sum
from ppo_lm.training import approximate_kl, policy_loss, policy_ratio, value_loss

pytestmark = pytest.mark.fast

ONE = torch.ones(1, 1, dtype=torch.bool)


def column(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.5, 2.0, -2.4, 0.0, 1),  # grew too much and was good: held at 1.2, no gradient
        (1.5, -2.0, 3.0, 3.0, 0),  # grew and was bad: full gradient to push it back
        (0.5, 2.0, -1.0, -1.0, 0),  # shrank and was good: full gradient to bring it back
        (0.5, -2.0, 1.6, 0.0, 1),  # shrank too much and was bad: held at 0.8, no gradient
        (1.1, 2.0, -2.2, -2.2, 0),  # inside the range: plain policy gradient
    ],
)
def test_the_clip_quadrants_by_hand(ratio, advantage, loss, gradient, clipped):
    new = column(math.log(ratio)).requires_grad_()
    result = policy_loss(new, column(0.0), column(advantage), ONE, clip_epsilon=0.2)
    result.loss.sum().backward()
    assert result.loss.item() == pytest.approx(loss, abs=1e-12)
    assert new.grad.item() == pytest.approx(gradient, abs=1e-12)
    assert int(result.metrics["clip_fraction"]) == clipped


def test_the_approximate_kl_by_hand():
    torch.testing.assert_close(approximate_kl(column(1.0, 2.0)), column(0.0, 1 - math.log(2)))


@pytest.mark.parametrize(
    ("new", "old", "target", "clip", "loss", "gradient"),
    [
        (3.0, 1.0, 2.0, 0.0, 0.5, 1.0),  # no clipping: ½·1², V − G
        (3.0, 1.0, 5.0, 0.5, 6.125, 0.0),  # moved past the range towards the target: ½·(1.5 − 5)², no gradient
        (3.0, 1.0, 2.0, 0.5, 0.5, 1.0),  # the unclipped error is the larger: it counts
        (1.2, 1.0, 2.0, 0.5, 0.32, -0.8),  # inside the range
    ],
)
def test_value_loss_by_hand(new, old, target, clip, loss, gradient):
    values = column(new).requires_grad_()
    result = value_loss(values, column(old), column(target), ONE, clip)
    result.loss.sum().backward()
    assert result.loss.item() == pytest.approx(loss, abs=1e-12)
    assert values.grad.item() == pytest.approx(gradient, abs=1e-12)


def random_columns(count, seed=0, rows=4, actions=6):
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, actions, generator=g) < 0.6
    mask[0, 0] = True
    return [torch.randn(rows, actions, generator=g, dtype=torch.float64) for _ in range(count)], mask


def losses(columns, mask):
    """The sums over sampled tokens."""
    found = {"policy": policy_loss(*columns, mask, 0.2), "value": value_loss(*columns, mask, 0.2)}
    return {name: masked_sum(token_loss.loss, mask) for name, token_loss in found.items()}


@pytest.mark.parametrize("name", ["policy", "value"])
def test_masked_gradients_are_exactly_zero_and_nan_in_padding_never_leaks(name):
    columns, mask = random_columns(3)
    poisoned = [c.masked_fill(~mask, torch.nan).requires_grad_() for c in columns]
    loss = losses(poisoned, mask)[name]
    loss.backward()
    assert torch.equal(loss.detach(), losses(columns, mask)[name])
    gradient = poisoned[0].grad
    assert torch.all(gradient[~mask] == 0)
    assert torch.all(torch.isfinite(gradient))
    assert torch.any(gradient[mask] != 0)


def test_huge_log_ratios_in_padding_do_not_overflow():
    mask = torch.tensor([[True, False]])
    new = column(0.0, 1e6).requires_grad_()
    masked_sum(policy_loss(new, column(0.0, -1e6), column(1.0, 1.0), mask, 0.2).loss, mask).backward()
    assert new.grad.tolist() == [[-1.0, 0.0]]


@pytest.mark.parametrize("name", ["policy", "value"])
def test_micro_batches_add_up_and_row_order_and_extra_padding_change_nothing(name):
    columns, mask = random_columns(3)
    whole = losses(columns, mask)[name]
    parts = [losses([c[rows] for c in columns], mask[rows])[name] for rows in ([0], [1, 2], [3])]
    torch.testing.assert_close(sum(parts), whole, rtol=0, atol=1e-12)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(losses([c[order] for c in columns], mask[order])[name], whole, rtol=0, atol=1e-12)
    wide = [torch.cat([c, torch.full((4, 3), 7.0, dtype=c.dtype)], dim=1) for c in columns]
    wide_mask = torch.cat([mask, torch.zeros(4, 3, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(losses(wide, wide_mask)[name], whole, rtol=0, atol=1e-12)


def test_equal_log_probabilities_give_ratio_1_and_no_clipping():
    (logprobs, _, advantages), mask = random_columns(3)
    assert torch.all(policy_ratio(logprobs, logprobs, mask) == 1)
    result = policy_loss(logprobs, logprobs, advantages, mask, 0.2)
    assert not result.metrics["clip_fraction"][mask].any()
    assert masked_mean(result.loss, mask).item() == pytest.approx(-advantages[mask].mean().item(), abs=1e-12)
