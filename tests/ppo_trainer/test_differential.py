"""Two hundred random batches, half of them with observations in the responses, through our mathematics and one whole
update, against slow and obvious formulas in fp64, written from the papers, that only know sampled tokens."""

import copy
import math
import random

import pytest
import torch

from ppo_lm.advantage import GAEAdvantage, ReturnCalculator, TDError
from ppo_lm.base_setup import set_up_roles
from ppo_lm.config import PPOConfig
from ppo_lm.ops import masked_mean, masked_sum, masked_whiten
from ppo_lm.ppo_trainer import ModelTrainer
from ppo_lm.reward_kl import KLDivergence, RewardAdjuster
from ppo_lm.training import kl_loss, policy_loss, token_weights, value_loss
from tests.conftest import make_base, make_pairs

pytestmark = pytest.mark.fast

CLOSE = 1e-6
ESTIMATORS = {"k1": lambda d: d, "k2": lambda d: d * d / 2, "k3": lambda d: math.exp(-d) - 1 + d}


def draw_settings(rng):
    return dict(
        kl_estimator=rng.choice(["k1", "k2", "k3"]),
        kl_coef=rng.choice([0.0, 0.05, 0.3]),
        missing_eos_score=rng.choice([None, -1.0]),
        gamma=rng.choice([1.0, 0.99, 0.8]),
        lam=rng.choice([1.0, 0.95, 0.5, 0.0]),
        clip_epsilon=rng.choice([0.1, 0.2]),
        clip_epsilon_high=rng.choice([None, 0.3]),
        dual_clip=rng.choice([0.0, 3.0]),
        value_clip=rng.choice([0.0, 0.2]),
        loss_aggregation=rng.choice(["token_mean", "sequence_mean"]),
        whiten_rewards=rng.random() < 0.3,
        whiten_advantages=rng.random() < 0.7,
    )


def slow_whiten(rows, keep_mean):
    flat = [x for row in rows for x in row]
    mean = sum(flat) / len(flat)
    scale = 1 / math.sqrt(sum((x - mean) ** 2 for x in flat) / len(flat) + 1e-8)
    return [[(x - mean) * scale + (mean if keep_mean else 0) for x in row] for row in rows]


def sampled(column, pairs):
    """The numbers of the sampled tokens, row by row."""
    return [list(row[mask]) for row, mask in zip(column, pairs.action_mask)]


def slow_rewards(pairs, s):
    """The score on the last token, and the KL on each."""
    rows = []
    for row, differences in enumerate(sampled(pairs.old_logprobs - pairs.ref_logprobs, pairs)):
        score = float(pairs.scores[row])
        if s["missing_eos_score"] is not None and not bool(pairs.terminated[row]):
            score = s["missing_eos_score"]
        rewards = [-s["kl_coef"] * ESTIMATORS[s["kl_estimator"]](float(d)) for d in differences]
        rows.append([*rewards[:-1], rewards[-1] + score])
    return slow_whiten(rows, keep_mean=True) if s["whiten_rewards"] else rows


def slow_advantages(rewards, pairs, s):
    """Σ_l (γλ)^l δ_{t+l} and Σ_l γ^l r_{t+l}, as double sums."""
    advantages, to_go = [], []
    for r, values in zip(rewards, sampled(pairs.values, pairs)):
        v = [float(x) for x in values] + [0.0]
        delta = [r[t] + s["gamma"] * v[t + 1] - v[t] for t in range(len(r))]
        advantages.append(
            [sum((s["gamma"] * s["lam"]) ** (u - t) * delta[u] for u in range(t, len(r))) for t in range(len(r))]
        )
        to_go.append([sum(s["gamma"] ** (u - t) * r[u] for u in range(t, len(r))) for t in range(len(r))])
    return slow_whiten(advantages, keep_mean=False) if s["whiten_advantages"] else advantages, to_go


def slow_mean(rows, aggregation):
    if aggregation == "token_mean":
        flat = [x for row in rows for x in row]
        return sum(flat) / len(flat)
    return sum(sum(row) / len(row) for row in rows) / len(rows)


def slow_policy_loss(new, pairs, advantages, s):
    rows, high = [], s["clip_epsilon"] if s["clip_epsilon_high"] is None else s["clip_epsilon_high"]
    for differences, a in zip(sampled(new - pairs.old_logprobs, pairs), advantages):
        terms = []
        for difference, advantage in zip(differences, a):
            ratio = torch.exp(difference)
            held = torch.clamp(ratio, 1 - s["clip_epsilon"], 1 + high)
            surrogate = min(ratio * advantage, held * advantage)
            if s["dual_clip"] and advantage < 0:
                surrogate = max(surrogate, surrogate.new_tensor(s["dual_clip"] * advantage))
            terms.append(-surrogate)
        rows.append(terms)
    return slow_mean(rows, s["loss_aggregation"])


def slow_value_loss(new, pairs, targets, s):
    rows = []
    for values, olds, target in zip(sampled(new, pairs), sampled(pairs.values, pairs), targets):
        terms = []
        for value, old, goal in zip(values, olds, target):
            errors = [(value - goal) ** 2]
            if s["value_clip"]:
                errors.append((old + torch.clamp(value - old, -s["value_clip"], s["value_clip"]) - goal) ** 2)
            terms.append(max(errors) / 2)
        rows.append(terms)
    return slow_mean(rows, "token_mean")


def table(rows, pairs):
    """Back to (B, A): each number in the column of its token."""
    flat = torch.tensor([number for row in rows for number in row], dtype=torch.float64)
    return torch.zeros(pairs.action_mask.shape, dtype=torch.float64).masked_scatter(pairs.action_mask, flat)


def ours(pairs, s):
    pairs = KLDivergence(s["kl_estimator"]).add_kl_to_sa_pairs(pairs)
    adjuster = RewardAdjuster(s["missing_eos_score"], s["whiten_rewards"])
    pairs = adjuster.adjust_rewards_with_kl(pairs, s["kl_coef"])
    pairs = pairs.with_columns(td_errors=TDError().compute_td_errors(pairs, s["gamma"]))
    pairs = pairs.with_columns(advantages=GAEAdvantage().compute_gae_advantages(pairs, s["gamma"], s["lam"]))
    pairs = ReturnCalculator().add_reward_to_go(pairs, s["gamma"])
    return (
        pairs.with_columns(advantages=masked_whiten(pairs.advantages, pairs.action_mask))
        if s["whiten_advantages"]
        else pairs
    )


@pytest.mark.parametrize("seed", range(200))
def test_rewards_advantages_and_losses(seed):
    rng = random.Random(seed)
    s, rows, actions = draw_settings(rng), rng.randint(1, 6), rng.randint(1, 9)
    pairs = make_pairs(rows=rows, prompt=4, actions=actions, seed=seed, holes=seed % 2 == 1)
    pairs, expected = ours(pairs, s), slow_rewards(pairs, s)
    advantages, to_go = slow_advantages(expected, pairs, s)
    for name, rows in (("rewards", expected), ("advantages", advantages), ("reward_to_go", to_go)):
        torch.testing.assert_close(getattr(pairs, name), table(rows, pairs), rtol=0, atol=CLOSE)
    g = torch.Generator().manual_seed(seed)
    moved = [
        (column + 0.3 * torch.randn(column.shape, generator=g, dtype=column.dtype)).requires_grad_()
        for column in (pairs.old_logprobs, pairs.values)
    ]
    count = len(pairs) if s["loss_aggregation"] == "token_mean" else pairs.sequences
    weights = token_weights(pairs.action_mask, s["loss_aggregation"], torch.float64)
    found = policy_loss(
        moved[0],
        pairs.old_logprobs,
        pairs.advantages,
        pairs.action_mask,
        s["clip_epsilon"],
        clip_epsilon_high=s["clip_epsilon_high"],
        dual_clip=s["dual_clip"],
    ).loss
    mean = lambda loss: masked_sum(loss * weights, pairs.action_mask) / count  # noqa: E731
    same(mean(found), slow_policy_loss(moved[0], pairs, advantages, s), moved[0])
    found = value_loss(moved[1], pairs.values, pairs.reward_to_go, pairs.action_mask, s["value_clip"]).loss
    same(masked_mean(found, pairs.action_mask), slow_value_loss(moved[1], pairs, to_go, s), moved[1])
    kl = kl_loss(moved[0], pairs.old_logprobs, pairs.ref_logprobs, pairs.action_mask, "k3")
    ratio, difference = (moved[0] - pairs.old_logprobs).exp(), moved[0] - pairs.ref_logprobs
    k3 = ratio * ((-difference).exp() - 1 + difference)
    same(mean(kl), slow_mean(sampled(k3, pairs), s["loss_aggregation"]), moved[0])


def same(found, expected, leaf):
    """The same number, and the same gradient."""
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=0, atol=CLOSE)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in (found, expected)), rtol=0, atol=CLOSE
    )


@pytest.mark.parametrize("seed", range(6))
def test_one_whole_update_moves_every_weight_as_adamw_on_the_slow_losses_does(seed):
    """Both models, in fp64: mini-batch, micro-batches, clipping of the gradient, AdamW written out, the schedule."""
    rng = random.Random(seed)
    s = draw_settings(rng) | dict(kl_coef=0.1, kl_estimator="k3")
    config = PPOConfig(
        **s,
        lora_r=4,
        ppo_epochs=1,
        steps=10,
        micro_batch_tokens=40,
        learning_rate=1e-3,
        value_learning_rate=3e-3,
        max_grad_norm=0.05,
        entropy_coef=0.01,
        kl_in="loss",
        adam_epsilon=3e-5,
        temperature=0.7,
        fast=False,
    )
    base = make_base(dtype=torch.float64)
    roles = set_up_roles(base, lora_r=4, lora_alpha=8, lora_dropout=0.0, lora_targets="all-linear")
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in [*roles.policy.parameters(), *roles.value.parameters()]:
            parameter.data = parameter.data.double() + 0.1 * torch.randn(parameter.shape, dtype=torch.float64)
    pairs = make_pairs(rows=5, seed=seed, holes=seed % 2 == 1)
    pairs = ours(
        pairs.with_columns(
            old_logprobs=roles.policy.action_logprobs(pairs, 0.7).detach() + 0.1 * pairs.old_logprobs,
            ref_logprobs=pairs.ref_logprobs - 7,
        ),
        s,
    )
    advantages, to_go = (
        [list(map(float, row)) for row in sampled(column, pairs)] for column in (pairs.advantages, pairs.reward_to_go)
    )
    logits = base.logits(base_states(base, roles.policy.role, pairs)) / 0.7
    distribution = logits.log_softmax(-1)
    new = distribution.gather(2, pairs.action_ids[..., None])[..., 0]
    entropy = -(distribution.exp() * distribution).sum(-1)
    ratio, difference = (new - pairs.old_logprobs).exp(), new - pairs.ref_logprobs
    per_token = 0.1 * ratio * ((-difference).exp() - 1 + difference) - 0.01 * entropy
    extra = slow_mean(sampled(per_token, pairs), s["loss_aggregation"])
    expected = {
        "policy": updated(slow_policy_loss(new, pairs, advantages, s) + extra, roles.policy.parameters(), 1e-3),
        "value": updated(slow_value_loss(roles.value.values(pairs), pairs, to_go, s), roles.value.parameters(), 3e-3),
    }
    trainer = ModelTrainer(roles.policy, roles.value, config)
    trainer.train_models(pairs, kl_coef=0.1)
    for name, weights in expected.items():
        for weight, after in zip(getattr(roles, name).parameters(), weights):
            torch.testing.assert_close(weight.detach().double(), after, rtol=0, atol=CLOSE)


def base_states(base, role, pairs):
    """The hidden state before each response token, one sequence after the other, without padding."""
    states = torch.zeros(*pairs.action_ids.shape, base.hidden_size, dtype=torch.float64)
    for row, length in enumerate(pairs.response_mask.sum(dim=1).tolist()):
        ids = pairs.input_ids[row][pairs.attention_mask[row]][None]
        with base.role(role):
            hidden = base.network.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]
        states[row, :length] = hidden[ids.shape[1] - length - 1 : ids.shape[1] - 1]
    return states


def updated(loss, weights, rate):
    """One AdamW step from zero moments, after clipping the norm to 0.05: β 0.9 and 0.999, ε 3e-5, no decay."""
    gradients = torch.autograd.grad(loss, weights, retain_graph=True)
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    scale = min(1.0, 0.05 / (norm + 1e-6))
    out = []
    for weight, gradient in zip(weights, gradients):
        g = gradient.double() * scale
        first, second = 0.1 * g / (1 - 0.9), 0.001 * g**2 / (1 - 0.999)
        out.append(copy.deepcopy(weight.detach()).double() - rate * first / (second.sqrt() + 3e-5))
    return out
