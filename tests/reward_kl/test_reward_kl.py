import pytest
import torch

from ppo_lm.reward_kl import KLController, KLDivergence, RewardAdjuster
from tests.conftest import make_pairs

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_of_a_policy_with_itself_is_0(estimator):
    pairs = make_pairs()
    pairs = pairs.with_columns(ref_logprobs=pairs.old_logprobs)
    assert torch.all(KLDivergence(estimator).add_kl_to_sa_pairs(pairs).kl == 0)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_estimators_average_to_the_exact_kl(estimator):
    g = torch.Generator().manual_seed(0)
    p, q = (torch.randn(8, generator=g, dtype=torch.float64).log_softmax(0) for _ in range(2))
    exact = (p.exp() * (p - q)).sum()
    each = KLDivergence(estimator).compute_kl(p[None], q[None], torch.ones(1, 8, dtype=torch.bool))[0]
    torch.testing.assert_close((p.exp() * each).sum(), exact, rtol=0, atol=1e-12)


def test_k2_by_hand_and_k3_is_never_negative():
    mask = torch.tensor([[True, True, False]])
    logprobs, reference = torch.tensor([[-1.0, -3.0, 5.0]]), torch.tensor([[-2.0, -1.0, torch.nan]])
    assert KLDivergence("k2").compute_kl(logprobs, reference, mask).tolist() == [[0.5, 2.0, 0.0]]
    assert torch.all(KLDivergence("k3").add_kl_to_sa_pairs(make_pairs(rows=50)).kl >= 0)


def test_unknown_estimator():
    with pytest.raises(ValueError, match="estimator is 'k4'; it must be k1, k2 or k3"):
        KLDivergence("k4")


@pytest.mark.parametrize("holes", [False, True])
def test_reward_is_score_on_the_last_sampled_token_minus_kl(holes):
    pairs = make_pairs(rows=20, holes=holes)
    rewards = RewardAdjuster().adjust_rewards_with_kl(pairs, kl_coef=0.3).rewards
    for row in range(pairs.sequences):
        places = pairs.action_mask[row].nonzero()[:, 0].tolist()
        expected = torch.zeros(rewards.shape[1], dtype=torch.float64)
        for t in places:
            expected[t] = -0.3 * pairs.kl[row, t]
        expected[places[-1]] += pairs.scores[row]
        torch.testing.assert_close(rewards[row], expected, rtol=0, atol=1e-12)


def test_missing_eos_replaces_the_score():
    pairs = make_pairs(rows=4)  # rows 1 and 3 did not terminate
    rewards = RewardAdjuster(missing_eos_score=-1.0).adjust_rewards_with_kl(pairs, 0.0).rewards
    expected = torch.where(pairs.terminated, pairs.scores, -1.0)
    torch.testing.assert_close(rewards.sum(dim=1), expected, rtol=0, atol=0)


@pytest.mark.parametrize("holes", [False, True])
def test_whitened_rewards_keep_their_mean_and_have_variance_1(holes):
    pairs = make_pairs(rows=30, holes=holes)
    plain = RewardAdjuster().adjust_rewards_with_kl(pairs, 0.1).rewards[pairs.action_mask]
    white = RewardAdjuster(whiten=True).adjust_rewards_with_kl(pairs, 0.1).rewards
    torch.testing.assert_close(white[pairs.action_mask].mean(), plain.mean(), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        white[pairs.action_mask].var(correction=0), torch.tensor(1.0, dtype=torch.float64), rtol=0, atol=1e-6
    )
    assert torch.all(white[~pairs.action_mask] == 0)


def test_the_controller_steers_towards_its_target_by_hand():
    controller = KLController(0.15, target=6.0, horizon=10_000)
    controller.update(6.6, responses=500)  # 10% too far: 1 + 0.1 · 500 / 10,000
    assert controller.coef == pytest.approx(0.15 * 1.005, abs=1e-12)
    controller.update(60.0, responses=500)  # the error is cut off at 0.2
    assert controller.coef == pytest.approx(0.15 * 1.005 * 1.01, abs=1e-12)
    controller.update(0.0, responses=10_000)
    assert controller.coef == pytest.approx(0.15 * 1.005 * 1.01 * 0.8, abs=1e-12)


def test_without_a_target_the_weight_stays():
    controller = KLController(0.1)
    controller.update(100.0, responses=10_000)
    assert controller.coef == 0.1
