"""Our GAE, clipped losses and their gradients against torchrl's, another team's code: `uv run --group torchrl pytest
tests/ppo_trainer/test_against_torchrl.py`."""

import random

import pytest
import torch

from ppo_lm.advantage import GAEAdvantage, TDError
from ppo_lm.ops import masked_mean
from ppo_lm.training import policy_loss, value_loss
from tests.conftest import make_pairs

pytest.importorskip(
    "torchrl", reason="torchrl is not installed; it comes with the group torchrl: uv run --group torchrl pytest"
)

from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value.functional import generalized_advantage_estimate

CLOSE = dict(rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(100))
def test_advantages(seed):
    rng = random.Random(seed)
    gamma, lam = rng.choice([1.0, 0.99, 0.8]), rng.choice([1.0, 0.95, 0.5, 0.0])
    pairs = make_pairs(rows=rng.randint(1, 6), actions=rng.randint(1, 9), seed=seed)
    rewards = torch.where(
        pairs.action_mask,
        torch.randn(pairs.values.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64),
        0.0,
    )
    pairs = pairs.with_columns(rewards=rewards)
    pairs = pairs.with_columns(td_errors=TDError().compute_td_errors(pairs, gamma))
    found = GAEAdvantage().compute_gae_advantages(pairs, gamma, lam)
    next_values = torch.nn.functional.pad(pairs.values[:, 1:], (0, 1))
    done = torch.arange(rewards.shape[1]) == pairs.lengths[:, None] - 1
    columns = (column[..., None] for column in (pairs.values, next_values, rewards, done, done))
    expected, _ = generalized_advantage_estimate(gamma, lam, *columns)
    torch.testing.assert_close(found[pairs.action_mask], expected.squeeze(-1)[pairs.action_mask], **CLOSE)


@pytest.mark.parametrize("seed", range(100))
def test_clipped_losses_and_their_gradients(seed):
    rng, words = random.Random(seed), 11
    g = torch.Generator().manual_seed(seed)
    pairs = make_pairs(rows=rng.randint(1, 6), actions=rng.randint(1, 9), seed=seed)
    mask, clip, value_clip = pairs.action_mask, rng.choice([0.1, 0.2, 0.3]), rng.choice([0.0, 0.2])
    tokens = int(mask.sum())
    logits, values = (
        torch.nn.Embedding(tokens, words, dtype=torch.float64),
        torch.nn.Embedding(tokens, 1, dtype=torch.float64),
    )
    with torch.no_grad():
        for table in (logits, values):
            table.weight.copy_(torch.randn(table.weight.shape, generator=g, dtype=torch.float64))
    actions = torch.randint(words, (tokens,), generator=g)
    advantages, targets = torch.randn(2, tokens, generator=g, dtype=torch.float64)

    def spread(numbers):
        """From one entry per token to the batch's cells."""
        return torch.zeros(mask.shape, dtype=torch.float64).masked_scatter(mask, numbers)

    new = logits.weight.log_softmax(-1).gather(1, actions[:, None]).squeeze(1)
    old = (new + 0.3 * torch.randn(tokens, generator=g, dtype=torch.float64)).detach()
    old_values = (values.weight[:, 0] + 0.3 * torch.randn(tokens, generator=g, dtype=torch.float64)).detach()
    ours = [
        masked_mean(token_loss.loss, mask)
        for token_loss in (
            policy_loss(spread(new), spread(old), spread(advantages), mask, clip),
            value_loss(spread(values.weight[:, 0]), spread(old_values), spread(targets), mask, value_clip),
        )
    ]

    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(logits, in_keys=["place"], out_keys=["logits"]),
        ProbabilisticTensorDictModule(
            in_keys=["logits"],
            out_keys=["action"],
            distribution_class=torch.distributions.Categorical,
            return_log_prob=True,
        ),
    )
    critic = TensorDictModule(values, in_keys=["place"], out_keys=["state_value"])
    theirs = ClipPPOLoss(
        actor,
        critic,
        clip_epsilon=clip,
        entropy_bonus=False,
        normalize_advantage=False,
        loss_critic_type="l2",
        clip_value=value_clip or None,
        critic_coeff=0.5,
        functional=False,
    )
    columns = {"advantage": advantages[:, None], "value_target": targets[:, None], "state_value": old_values[:, None]}
    data = TensorDict({"place": torch.arange(tokens), "action": actions, **columns}, [tokens])
    data[theirs.tensor_keys.sample_log_prob] = old
    made = theirs(data)
    for our, their, table in zip(ours, (made["loss_objective"], made["loss_critic"]), (logits, values)):
        torch.testing.assert_close(our, their, **CLOSE)
        torch.testing.assert_close(
            torch.autograd.grad(our, table.weight)[0], torch.autograd.grad(their.sum(), table.weight)[0], **CLOSE
        )
