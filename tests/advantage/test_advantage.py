import math

import pytest
import torch

from ppo_lm.advantage import GAEAdvantage, GroupAdvantage, ReturnCalculator, TDError, length_adaptive_lam
from ppo_lm.advantage.group_advantage import leave_one_out, normalised_in_group
from tests.conftest import make_pairs

pytestmark = pytest.mark.fast


def sampled(pairs, row):
    """The columns of a row's sampled tokens."""
    return pairs.action_mask[row].nonzero()[:, 0].tolist()


def slow_td_errors(pairs, gamma):
    """δ_t = r_t + γ V_{t'} − V_t, entry by entry, over each row's sampled tokens."""
    out = torch.zeros_like(pairs.rewards)
    for row in range(pairs.sequences):
        places = sampled(pairs, row)
        for t, following in zip(places, [*places[1:], None]):
            next_value = 0.0 if following is None else pairs.values[row, following]
            out[row, t] = pairs.rewards[row, t] + gamma * next_value - pairs.values[row, t]
    return out


def slow_sum(terms, pairs, discount):
    """Σ_l discount^l x_{t+l} by a double loop over sampled tokens."""
    out = torch.zeros_like(terms)
    for row in range(pairs.sequences):
        places = sampled(pairs, row)
        for i, t in enumerate(places):
            out[row, t] = sum(discount**l * terms[row, u] for l, u in enumerate(places[i:]))
    return out


def advantages(pairs, gamma, lam):
    pairs = pairs.with_columns(td_errors=TDError().compute_td_errors(pairs, gamma))
    return GAEAdvantage().compute_gae_advantages(pairs, gamma, lam)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (1.0, 0.5), (0.9, 1.0), (0.7, 0.0)])
def test_gae_is_the_double_sum_over_td_errors(seed, gamma, lam, holes):
    pairs = make_pairs(seed=seed, holes=holes)
    expected = slow_sum(slow_td_errors(pairs, gamma), pairs, gamma * lam)
    torch.testing.assert_close(advantages(pairs, gamma, lam), expected, rtol=0, atol=1e-12)


def test_by_hand():
    pairs = make_pairs(rows=1, actions=3)
    pairs = pairs.with_columns(rewards=torch.tensor([[0.0, 1.0, 2.0]]), values=torch.tensor([[0.5, 1.0, 1.5]]))
    # γ = 0.5: δ2 = 2 − 1.5 = 0.5, δ1 = 1 + 0.75 − 1 = 0.75, δ0 = 0 + 0.5 − 0.5 = 0
    torch.testing.assert_close(TDError().compute_td_errors(pairs, 0.5), torch.tensor([[0.0, 0.75, 0.5]]))
    # γλ = 0.25: A2 = 0.5, A1 = 0.75 + 0.125 = 0.875, A0 = 0.21875
    torch.testing.assert_close(advantages(pairs, 0.5, 0.5), torch.tensor([[0.21875, 0.875, 0.5]]))
    # G2 = 2, G1 = 1 + 1 = 2, G0 = 1
    torch.testing.assert_close(
        ReturnCalculator().add_reward_to_go(pairs, 0.5).reward_to_go, torch.tensor([[1.0, 2.0, 2.0]])
    )


def test_by_hand_with_a_hole():
    """The middle token is an observation: what stands there counts for nothing, and discounts nothing."""
    pairs = make_pairs(rows=1, actions=3)
    pairs = pairs.with_columns(
        action_mask=torch.tensor([[True, False, True]]),
        rewards=torch.tensor([[1.0, 99.0, 2.0]]),
        values=torch.tensor([[0.5, 99.0, 1.5]]),
    )
    # γ = 0.5: δ2 = 2 − 1.5 = 0.5, δ0 = 1 + 0.75 − 0.5 = 1.25
    torch.testing.assert_close(TDError().compute_td_errors(pairs, 0.5), torch.tensor([[1.25, 0.0, 0.5]]))
    # γλ = 0.25: A2 = 0.5, A0 = 1.25 + 0.125
    torch.testing.assert_close(advantages(pairs, 0.5, 0.5), torch.tensor([[1.375, 0.0, 0.5]]))
    # G2 = 2, G0 = 1 + 1
    torch.testing.assert_close(
        ReturnCalculator().add_reward_to_go(pairs, 0.5).reward_to_go, torch.tensor([[2.0, 0.0, 2.0]])
    )


def test_lambda_0_gives_td_errors():
    pairs = make_pairs()
    torch.testing.assert_close(advantages(pairs, 0.99, 0.0), slow_td_errors(pairs, 0.99), rtol=0, atol=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 0.99, 0.5])
@pytest.mark.parametrize("holes", [False, True])
def test_lambda_1_gives_reward_to_go_minus_value(gamma, holes):
    pairs = make_pairs(holes=holes)
    pairs = ReturnCalculator().add_reward_to_go(pairs, gamma)
    expected = torch.where(pairs.action_mask, pairs.reward_to_go - pairs.values, 0.0)
    torch.testing.assert_close(advantages(pairs, gamma, 1.0), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(pairs.reward_to_go, slow_sum(pairs.rewards, pairs, gamma), rtol=0, atol=1e-12)


def test_returns_are_advantages_plus_values_on_real_tokens():
    pairs = ReturnCalculator().add_returns(make_pairs(holes=True))
    expected = torch.where(pairs.action_mask, pairs.advantages + pairs.values, 0.0)
    torch.testing.assert_close(pairs.returns, expected, rtol=0, atol=0)


@pytest.mark.parametrize("holes", [False, True])
def test_nan_where_nothing_was_sampled_never_leaks(holes):
    clean = make_pairs(holes=holes)
    poison = lambda column: column.masked_fill(~clean.action_mask, torch.nan)  # noqa: E731
    dirty = clean.with_columns(rewards=poison(clean.rewards), values=poison(clean.values))
    for lam in (0.0, 0.95, 1.0):
        assert torch.equal(advantages(dirty, 0.99, lam), advantages(clean, 0.99, lam))
    assert torch.equal(
        ReturnCalculator().add_reward_to_go(dirty, 0.9).reward_to_go,
        ReturnCalculator().add_reward_to_go(clean, 0.9).reward_to_go,
    )


def test_a_missing_column_says_which_step_adds_it():
    pairs = make_pairs(td_errors=None, values=None)
    with pytest.raises(ValueError, match="no 'td_errors' yet: TDError.compute_td_errors adds it"):
        GAEAdvantage().compute_gae_advantages(pairs, 1.0, 1.0)
    with pytest.raises(ValueError, match="no 'values' yet: ValueAdder.add_values_to_sa_pairs"):
        TDError().compute_td_errors(pairs, 1.0)


def test_one_lambda_per_row_equals_each_row_with_its_own():
    pairs = make_pairs()
    lams = torch.tensor([0.9, 0.5, 0.0, 1.0, 0.3], dtype=torch.float64)
    found = advantages(pairs, 0.99, lams)
    for row, lam in enumerate(lams.tolist()):
        torch.testing.assert_close(found[row], advantages(pairs, 0.99, lam)[row], rtol=0, atol=1e-12)


def test_length_adaptive_lambda_by_hand():
    torch.testing.assert_close(
        length_adaptive_lam(torch.tensor([1, 10, 40, 200, 0]), 0.05), torch.tensor([0.0, 0.0, 0.5, 0.9, 0.0])
    )


def test_returns_can_have_their_own_lambda():
    """With λ = 1 the return is the reward-to-go, whatever λ the policy's advantages have."""
    pairs = make_pairs()
    pairs = pairs.with_columns(td_errors=TDError().compute_td_errors(pairs, 0.9))
    pairs = ReturnCalculator().add_reward_to_go(pairs, 0.9)
    own = GAEAdvantage().compute_gae_advantages(pairs, 0.9, 1.0)
    torch.testing.assert_close(
        ReturnCalculator().add_returns(pairs, own).returns, pairs.reward_to_go, rtol=0, atol=1e-12
    )


def test_group_advantages_by_hand():
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    rewards = torch.tensor([[1.0, 2.0], [5.0, math.nan], [0.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
    pairs = make_pairs(rows=4, actions=2).with_columns(action_mask=mask, rewards=rewards)  # totals 3 and 5; 1 and 1
    rloo = GroupAdvantage().compute_group_advantages(pairs, 2, leave_one_out)
    assert rloo.tolist() == [[-2.0, -2.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    group = GroupAdvantage().compute_group_advantages(pairs, 2, normalised_in_group)
    spread = math.sqrt(2) + 1e-4
    torch.testing.assert_close(
        group, torch.tensor([[-1, -1], [1, 0], [0, 0], [0, 0]], dtype=torch.float64) / spread, rtol=0, atol=1e-12
    )


def test_leave_one_out_of_three_is_the_mean_of_the_other_two():
    assert leave_one_out(torch.tensor([[3.0, 6.0, 0.0]])).tolist() == [[0.0, 4.5, -4.5]]
