"""Responses with holes: tokens that the policy did not sample (an environment's words between two turns) are attended
to, and nothing else. Compared with a slow derivation in fp64, one conversation at a time, whose mathematics never sees
an observation."""

import pytest
import torch

from ppo_lm.advantage import TDError, find_estimator
from ppo_lm.advantage.discounted_sum import discounted_sum
from ppo_lm.base_setup import set_up_roles
from ppo_lm.config import PPOConfig
from ppo_lm.data.encoding import pad
from ppo_lm.experience_buffer import trim_padding
from ppo_lm.ops import masked_sum, masked_whiten
from ppo_lm.ppo_trainer import ModelTrainer
from ppo_lm.reward_kl import KLDivergence, RewardAdjuster
from ppo_lm.token_attribution import attribute_scores, build_sa_pairs
from ppo_lm.training import NewNumbers, find_losses, policy_loss, token_weights, value_loss
from tests.conftest import make_base, make_pairs

pytestmark = pytest.mark.fast

CLOSE = dict(rtol=0, atol=1e-6)
EOS = 1
EPISODES = [  # prompt, then turns of the policy and of its environment by turns, score, whether the policy ended
    ([50, 51, 52], [[60, 61, EOS], [70, 71, 72], [62, EOS]], 0.8, True),
    ([53], [[63, EOS], [73], [64, 65, 66, EOS]], -1.2, True),
    ([54, 55], [[67, 68, 69]], 0.3, False),
    ([56, 57, 58, 59], [[80, EOS], [74, 75], [81, 82], [76, 77, 78]], 1.5, False),  # the environment has the last word
]
SETTINGS = [
    {},
    {"value_target": "returns", "whiten_advantages": False, "loss_aggregation": "sequence_mean", "kl_estimator": "k3"},
    {"value_target": "returns", "value_lam": 0.5, "lam_length_scale": 0.4, "whiten_rewards": True, "value_clip": 0.0},
    {"kl_in": "loss", "kl_estimator": "k2", "entropy_coef": 0.1, "missing_eos_score": -2.0},
    {"advantage_estimator": "rloo", "responses_per_prompt": 2, "importance_cap": 1.1, "old_logprobs": "recomputed"},
    {"old_logprobs": "recomputed", "importance_mode": "mask", "importance_cap": 1.1, "importance_floor": 0.9},
]


def make_config(**settings):
    defaults = dict(gamma=0.9, lam=0.8, kl_coef=0.3, ppo_epochs=1, lora_r=4, max_grad_norm=1e9, micro_batch_tokens=24)
    return PPOConfig(**{**defaults, "temperature": 0.7, "lr_schedule": "constant", **settings})


def make_roles(config, dtype=torch.float64):
    """A small real model whose policy has moved, and whose value model does not predict 0."""
    roles = set_up_roles(make_base(dtype), lora_r=4, lora_alpha=8, lora_dropout=0.0, lora_targets="all-linear")
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in [*roles.policy.parameters(), *roles.value.parameters()]:
            parameter.data = parameter.data.to(dtype) + 0.1 * torch.randn(parameter.shape, dtype=torch.float64).to(
                dtype
            )
    return roles


def flatten(turns):
    """A response's tokens, and which of them were sampled."""
    return (
        [token for turn in turns for token in turn],
        [number % 2 == 0 for number, turn in enumerate(turns) for _ in turn],
    )


def build(episodes, dtype=torch.float64):
    """The batch as an engine would hand it over; the policy has moved a little since it sampled."""
    prompts = pad([prompt for prompt, *_ in episodes], 0, side="left", device="cpu")
    responses = [flatten(turns) for _, turns, *_ in episodes]
    action_ids, real = pad([ids for ids, _ in responses], 0, side="right", device="cpu")
    sampled = torch.zeros_like(real).masked_scatter(real, torch.tensor([flag for _, row in responses for flag in row]))
    ended = torch.tensor([ended for *_, ended in episodes])
    pairs = build_sa_pairs(
        *prompts, action_ids, sampled, ended, torch.zeros(real.shape, dtype=dtype), response_mask=real
    )
    return pairs.with_columns(scores=torch.tensor([score for *_, score, _ in episodes], dtype=dtype))


def moved(column, pairs, scale):
    """The column, moved by numbers that only depend on the token and its place among the sampled ones."""
    order = pairs.action_mask.cumsum(dim=1)
    return torch.where(pairs.action_mask, column + scale * torch.sin(1.0 * pairs.action_ids * order), 0.0)


def roll_out(roles, config, episodes, dtype=torch.float64):
    """Steps 1 and 3 to 6 of `ppo_step`."""
    pairs, estimator = build(episodes, dtype), find_estimator(config)
    with torch.no_grad():
        logprobs = roles.policy.action_logprobs(pairs, config.temperature)
        reference = roles.sft.action_logprobs(pairs, config.temperature)
    pairs = pairs.with_columns(
        old_logprobs=moved(logprobs, pairs, 0.3),
        sampler_logprobs=moved(logprobs, pairs, 0.1),
        ref_logprobs=reference,
    )
    pairs = KLDivergence(config.kl_estimator).add_kl_to_sa_pairs(pairs)
    adjuster = RewardAdjuster(config.missing_eos_score, config.whiten_rewards)
    pairs = adjuster.adjust_rewards_with_kl(pairs, config.kl_coef if config.kl_in == "reward" else 0.0)
    if estimator.needs_values:
        pairs = pairs.with_columns(values=roles.value.values(pairs).detach())
    pairs = estimator.add_advantages(pairs, config)
    whiten = estimator.whitens if config.whiten_advantages is None else config.whiten_advantages
    if whiten:
        pairs = pairs.with_columns(advantages=masked_whiten(pairs.advantages, pairs.action_mask))
    return pairs


def slow_sum(terms, discount):
    """Σ_u discount^(u − t) x_u from every t on."""
    n = len(terms)
    return torch.stack([sum(discount ** (u - t) * terms[u] for u in range(t, n)) for t in range(n)])


class Slow:
    """One conversation at a time, as lists with an entry per sampled token."""

    def __init__(self, roles, config, episodes):
        self.roles, self.config, self.episodes = roles, config, episodes
        self.new, self.entropies = zip(*(self.logprobs("policy", *episode[:2]) for episode in episodes))
        self.ref, _ = zip(*(self.logprobs(None, *episode[:2]) for episode in episodes))
        self.new_values = [self.values(*episode[:2]) for episode in episodes]
        tokens = [[token for turn in turns[::2] for token in turn] for _, turns, *_ in episodes]
        noise = [torch.sin(torch.tensor([1.0 * t * (i + 1) for i, t in enumerate(row)])) for row in tokens]
        self.old = [new.detach() + 0.3 * by for new, by in zip(self.new, noise)]
        self.sampler = [new.detach() + 0.1 * by for new, by in zip(self.new, noise)]

    def states(self, role, prompt, turns):
        """The hidden state before each sampled token, (n, H), and those tokens."""
        response, flags = flatten(turns)
        with self.roles.policy.base.role(role):
            decoder = self.roles.policy.base.network.get_decoder()
            hidden = decoder(input_ids=torch.tensor([prompt + response]), use_cache=False).last_hidden_state[0]
        places = [i for i, flag in enumerate(flags) if flag]
        return hidden[[len(prompt) + place - 1 for place in places]], [response[place] for place in places]

    def logprobs(self, role, prompt, turns):
        states, tokens = self.states(role, prompt, turns)
        distribution = (self.roles.policy.base.logits(states) / self.config.temperature).log_softmax(dim=1)
        return distribution[range(len(tokens)), tokens], -(distribution.exp() * distribution).sum(dim=1)

    def values(self, prompt, turns):
        states, _ = self.states("value", prompt, turns)
        return self.roles.value.head(states)

    def whiten(self, rows, keep_mean):
        flat = torch.cat(rows)
        mean, scale = flat.mean(), 1 / (flat.var(correction=0) + 1e-8).sqrt()
        return [(row - mean) * scale + (mean if keep_mean else 0) for row in rows]

    def kl(self, new):
        kinds = {"k1": lambda d: d, "k2": lambda d: d**2 / 2, "k3": lambda d: (-d).exp() - 1 + d}
        return [kinds[self.config.kl_estimator](a - b) for a, b in zip(new, self.ref)]

    def columns(self):
        """By name, a list of numbers for each conversation."""
        config = self.config
        kl = [row.detach() for row in self.kl(self.old)]
        rewards = []
        for row, (*_, score, ended) in zip(kl, self.episodes):
            reward = -(config.kl_coef if config.kl_in == "reward" else 0.0) * row
            reward[-1] += score if ended or config.missing_eos_score is None else config.missing_eos_score
            rewards.append(reward)
        rewards = self.whiten(rewards, keep_mean=True) if config.whiten_rewards else rewards
        if config.advantage_estimator == "rloo":
            totals = [float(row.sum()) for row in rewards]
            advantages = [torch.full_like(row, totals[i] - totals[i ^ 1]) for i, row in enumerate(rewards)]
            return {"kl": kl, "rewards": rewards, "advantages": advantages}
        values = [row.detach() for row in self.new_values]
        errors, advantages, targets, to_go = [], [], [], []
        for r, v in zip(rewards, values):
            n = len(r)
            lam = max(0.0, 1 - 1 / (config.lam_length_scale * n)) if config.lam_length_scale else config.lam
            value_lam = lam if config.value_lam is None else config.value_lam
            delta = [r[t] + config.gamma * (v[t + 1] if t + 1 < n else 0.0) - v[t] for t in range(n)]
            errors.append(torch.stack(delta))
            advantages.append(slow_sum(delta, config.gamma * lam))
            targets.append(slow_sum(delta, config.gamma * value_lam) + v)
            to_go.append(slow_sum(r, config.gamma))
        if config.whiten_advantages is not False:
            advantages = self.whiten(advantages, keep_mean=False)
        found = {"kl": kl, "rewards": rewards, "values": values, "td_errors": errors, "advantages": advantages}
        return found | {"reward_to_go": to_go} | ({"returns": targets} if config.value_target == "returns" else {})

    def mean(self, rows):
        if self.config.loss_aggregation == "token_mean":
            return torch.cat(rows).mean()
        return torch.stack([row.mean() for row in rows]).mean()

    def trust(self, row):
        """The importance weights of a response's tokens."""
        cap, weights = self.config.importance_cap, (self.old[row] - self.sampler[row]).exp()
        if not cap:
            return torch.ones_like(weights)
        if self.config.importance_mode == "truncate":
            return weights.clamp(max=cap)
        return torch.tensor([w if self.config.importance_floor <= w <= cap else 0.0 for w in weights.tolist()])

    def policy_losses(self, columns):
        """The clipped surrogate, and the whole loss that is trained on."""
        config, surrogates, extras = self.config, [], []
        kls = self.kl(self.new)
        for row, advantage in enumerate(columns["advantages"]):
            ratio = (self.new[row] - self.old[row]).exp()
            held = ratio.clamp(1 - config.clip_epsilon, 1 + config.clip_epsilon)
            surrogates.append(-self.trust(row) * torch.minimum(ratio * advantage, held * advantage))
            weight = ratio.detach() if config.kl_estimator == "k2" else ratio
            kl = config.kl_coef * weight * kls[row] if config.kl_in == "loss" else 0.0 * ratio
            extras.append(kl - config.entropy_coef * self.entropies[row])
        surrogate = self.mean(surrogates)
        return surrogate, surrogate + self.mean(extras)

    def value_loss(self, columns):
        terms, c = [], self.config.value_clip
        for new, old, goal in zip(self.new_values, columns["values"], columns[self.config.value_target]):
            errors = (new - goal) ** 2
            if c:
                errors = torch.maximum(errors, (old + (new - old).clamp(-c, c) - goal) ** 2)
            terms.append(errors / 2)
        return torch.cat(terms).mean()


def caught_gradients(optimiser):
    """Filled with the gradient of every weight when the optimiser steps."""
    caught = []
    optimiser.inner.register_step_pre_hook(lambda *_: caught.extend(p.grad.clone() for p in optimiser.parameters))
    return caught


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_two_turn_batch_is_what_its_sampled_tokens_alone_make_of_it(settings):
    config = make_config(**settings)
    roles = make_roles(config)
    pairs, slow = roll_out(roles, config, EPISODES), Slow(roles, config, EPISODES)
    columns = slow.columns()
    for name, rows in columns.items():
        found = getattr(pairs, name)
        for row, expected in enumerate(rows):
            torch.testing.assert_close(found[row][pairs.action_mask[row]], expected, **CLOSE)
        assert torch.all(found[~pairs.action_mask] == 0), name
    assert pairs.lengths.tolist() == [5, 6, 3, 4]

    trainer = ModelTrainer(roles.policy, roles.value, config)
    surrogate, loss = slow.policy_losses(columns)
    losses = {"policy": (surrogate, loss)}
    if "values" in columns:
        losses["value"] = (slow.value_loss(columns),) * 2
    for name, (shown, trained) in losses.items():
        model = getattr(roles, name)
        expected = torch.autograd.grad(trained, model.parameters())
        caught = caught_gradients(trainer.optimisers[name])
        options = {"kl_coef": config.kl_coef} if name == "policy" and config.kl_in == "loss" else {}
        metrics = getattr(trainer, f"train_{name}_model")(pairs, **options)
        assert metrics[f"{name}_loss"] == pytest.approx(float(shown.detach()), abs=1e-6)
        assert len(caught) == len(expected) and max(float(g.abs().max()) for g in expected) > 1e-2
        for gradient, derived in zip(caught, expected):
            torch.testing.assert_close(gradient, derived, **CLOSE)


def test_in_fp32_the_passes_that_the_base_picks_read_a_two_turn_batch_as_the_slow_derivation_does():
    config = make_config()
    roles, slow = make_roles(config, torch.float32), Slow(make_roles(config), config, EPISODES)
    pairs = build(EPISODES, torch.float32)
    logprobs, values = roles.policy.action_logprobs(pairs, config.temperature), roles.value.values(pairs)
    for row, mask in enumerate(pairs.action_mask):
        torch.testing.assert_close(logprobs[row][mask].double(), slow.new[row], rtol=0, atol=1e-4)
        torch.testing.assert_close(values[row][mask].double(), slow.new_values[row], rtol=0, atol=1e-4)


def policy_token_loss(roles, config, pairs):
    new = NewNumbers(roles.policy.action_logprobs(pairs, config.temperature), None)
    return find_losses(config).policy.compute(pairs, new, config).loss.detach()


def value_token_loss(roles, config, pairs):
    return find_losses(config).value.compute(pairs, roles.value.values(pairs) + 1, config).loss.detach()


def test_the_length_of_an_observation_changes_no_other_rows_numbers():
    config = make_config(value_target="returns", whiten_advantages=False)
    roles = make_roles(config)
    longer = [(prompt, list(turns), *rest) for prompt, turns, *rest in EPISODES]
    longer[0][1][1] = [70, 71, 72, 79, 83, 84, 85, 86]
    plain, changed = (roll_out(roles, config, episodes) for episodes in (EPISODES, longer))
    assert changed.action_ids.shape[1] > plain.action_ids.shape[1]
    for loss in (policy_token_loss, value_token_loss):
        before, after = loss(roles, config, plain), loss(roles, config, changed)
        for row in (1, 2, 3):
            torch.testing.assert_close(
                after[row][changed.action_mask[row]], before[row][plain.action_mask[row]], rtol=0, atol=1e-10
            )
    for name in ("old_logprobs", "kl", "rewards", "values", "td_errors", "advantages", "reward_to_go", "returns"):
        before, after = getattr(plain, name), getattr(changed, name)
        for row in (1, 2, 3):
            torch.testing.assert_close(
                after[row][changed.action_mask[row]], before[row][plain.action_mask[row]], rtol=0, atol=1e-10
            )
    assert not torch.allclose(changed.values[0][changed.action_mask[0]], plain.values[0][plain.action_mask[0]])


def old_discounted_sum(terms, mask, discount):
    terms = torch.where(mask, terms, 0.0)
    sums, running = torch.zeros_like(terms), torch.zeros_like(terms[:, 0])
    for step in reversed(range(terms.shape[1])):
        running = terms[:, step] + discount * running
        sums[:, step] = running
    return sums


def old_td_errors(pairs, gamma):
    mask = pairs.action_mask
    values = torch.where(mask, pairs.values, 0.0)
    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    return torch.where(mask, pairs.rewards + gamma * next_values - values, 0.0)


def old_attribution(scores, mask):
    columns = torch.arange(mask.shape[1])
    return torch.where(mask & (columns == mask.sum(dim=1, keepdim=True) - 1), scores[:, None], 0.0)


def old_trimmed_ids(pairs):
    actions = pairs.action_ids.shape[1]
    prompt = pairs.attention_mask.shape[1] - actions
    first = int(pairs.attention_mask[:, :prompt].sum(dim=1).max())
    return pairs.input_ids[:, prompt - first : prompt + max(int(pairs.lengths.max()), 1)]


def old_policy_loss(new, pairs, weights, count):
    mask = pairs.action_mask
    ratio = (torch.where(mask, new, 0.0) - torch.where(mask, pairs.old_logprobs, 0.0)).exp()
    advantages = torch.where(mask, pairs.advantages, 0.0)
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    surrogate = torch.where(advantages < 0, torch.maximum(surrogate, 3.0 * advantages), surrogate)
    return -masked_sum(surrogate * weights, mask) / count


def old_value_loss(new, pairs, count):
    mask = pairs.action_mask
    new, old, targets = (torch.where(mask, column, 0.0) for column in (new, pairs.values, pairs.reward_to_go))
    clipped = old + (new - old).clamp(-0.2, 0.2)
    return masked_sum(torch.maximum((new - targets) ** 2, (clipped - targets) ** 2), mask) / (2 * count)


@pytest.mark.parametrize("seed", range(20))
def test_without_holes_the_results_equal_the_formulas_without_them_bit_for_bit(seed):
    pairs = make_pairs(rows=7, actions=11, dtype=torch.float32, seed=seed)
    mask, lams = pairs.action_mask, torch.rand(7, generator=torch.Generator().manual_seed(seed))
    for discount in (1.0, 0.99, 0.99 * 0.95, 0.99 * lams):
        old = old_discounted_sum(pairs.rewards, mask, discount)
        assert torch.equal(discounted_sum(pairs.rewards, mask, discount), old)
    assert torch.equal(TDError().compute_td_errors(pairs, 0.99), old_td_errors(pairs, 0.99))
    assert torch.equal(attribute_scores(pairs.scores, mask), old_attribution(pairs.scores, mask))
    some = pairs.select(torch.tensor([3, 5]))
    assert torch.equal(trim_padding(some).input_ids, old_trimmed_ids(some))
    for aggregation, count in (("token_mean", len(pairs)), ("sequence_mean", 7)):
        weights, results = token_weights(mask, aggregation), []
        for ours in (False, True):
            new, values = ((column + 0.3).requires_grad_() for column in (pairs.old_logprobs, pairs.values))
            if ours:
                found = policy_loss(new, pairs.old_logprobs, pairs.advantages, mask, 0.2, dual_clip=3.0).loss
                errors = value_loss(values, pairs.values, pairs.reward_to_go, mask, 0.2).loss
                losses = masked_sum(found * weights, mask) / count, masked_sum(errors, mask) / len(pairs)
            else:
                losses = old_policy_loss(new, pairs, weights, count), old_value_loss(values, pairs, len(pairs))
            results.append([*losses, *torch.autograd.grad(losses[0], new), *torch.autograd.grad(losses[1], values)])
        assert all(map(torch.equal, *results))
