"""The options of the policy's loss: clip ranges, weights, the KL in the loss."""

import math

import pytest
import torch

from ppo_lm.ops import masked_sum
from ppo_lm.training import double_sided_importance, kl_loss, policy_loss, token_weights, truncated_importance

pytestmark = pytest.mark.fast

ONE = torch.ones(1, 1, dtype=torch.bool)


def column(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.25, 2.0, -2.5, -2.5, 0),  # above 1.2, and still inside the upper half of 0.28
        (1.5, 2.0, -2.56, 0.0, 1),  # held at 1.28
        (0.75, -2.0, 1.6, 0.0, 1),  # the lower half is still 0.2
        (2.5, -2.0, 5.0, 5.0, 0),  # bad and likelier: full gradient, up to the dual clip
        (4.0, -2.0, 6.0, 0.0, 1),  # held at 3 · 2
        (4.0, 2.0, -2.56, 0.0, 1),  # a good action has no dual clip
    ],
)
def test_clip_higher_and_dual_clip_by_hand(ratio, advantage, loss, gradient, clipped):
    new = column(math.log(ratio)).requires_grad_()
    result = policy_loss(
        new, column(0.0), column(advantage), ONE, clip_epsilon=0.2, clip_epsilon_high=0.28, dual_clip=3.0
    )
    result.loss.sum().backward()
    assert result.loss.item() == pytest.approx(loss, abs=1e-12)
    assert new.grad.item() == pytest.approx(gradient, abs=1e-12)
    assert int(result.metrics["clip_fraction"]) == clipped


def test_a_mean_over_tokens_and_a_mean_over_sequences_by_hand():
    mask = torch.tensor([[True, False, False], [True, True, True]])
    advantages = torch.tensor([[3.0, 9.0, 9.0], [1.0, 2.0, 0.0]], dtype=torch.float64)
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    for aggregation, denominator, expected in (("token_mean", 4, -6 / 4), ("sequence_mean", 2, -(3 + 1) / 2)):
        weights = token_weights(mask, aggregation, torch.float64)
        assert weights.sum().item() == pytest.approx(denominator, abs=1e-12)
        found = policy_loss(zeros, zeros, advantages, mask, 0.2).loss
        assert masked_sum(found * weights, mask).item() / denominator == pytest.approx(expected, abs=1e-12)


def test_truncated_importance_by_hand_and_one_in_padding():
    mask = torch.tensor([[True, True, False]])
    found = truncated_importance(
        column(math.log(0.6), 0.0, math.nan), column(math.log(0.3), math.log(0.1), 5.0), mask, cap=5.0
    )
    torch.testing.assert_close(found, column(2.0, 5.0, 1.0))


def test_double_sided_importance_by_hand_and_one_in_padding():
    """Within the bounds as it is, which themselves belong to the range; 0 outside, even where the weight overflows."""
    mask = torch.tensor([[True, True, True, True, True, True, False]])
    found = double_sided_importance(
        column(math.log(0.6), math.log(0.25), 0.0, math.log(0.1), 0.0, 0.0, math.nan),
        column(math.log(0.3), math.log(0.5), math.log(0.25), math.log(0.21), math.log(0.2), -1e4, 5.0),
        mask,
        floor=0.5,
        cap=4.0,
    )
    torch.testing.assert_close(found, column(2.0, 0.5, 4.0, 0.0, 0.0, 0.0, 1.0))


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_expected_gradient_of_the_kl_in_the_loss_is_that_of_the_kl(estimator):
    """Over all actions of one state, each as often as the old policy takes it."""
    g = torch.Generator().manual_seed(0)
    new, old, ref = (torch.randn(6, generator=g, dtype=torch.float64) for _ in range(3))
    new.requires_grad_()
    logprobs, ref_logprobs = new.log_softmax(0), ref.log_softmax(0)
    (expected,) = torch.autograd.grad((logprobs.exp() * (logprobs - ref_logprobs)).sum(), new)
    mask = torch.ones(6, 1, dtype=torch.bool)
    weights = old.softmax(0)[:, None]
    loss = kl_loss(new.log_softmax(0)[:, None], old.log_softmax(0)[:, None], ref_logprobs[:, None], mask, estimator)
    (found,) = torch.autograd.grad((loss * weights).sum(), new)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_kl_in_the_loss_ignores_padding():
    mask = torch.tensor([[True, False]])
    new = column(-1.0, math.nan).requires_grad_()
    loss = masked_sum(kl_loss(new, column(-1.0, 3.0), column(-2.0, math.inf), mask, "k1"), mask)
    loss.backward()
    assert loss.item() == 1.0
    assert new.grad.tolist() == [[2.0, 0.0]]  # ρ·(1 + k1)
