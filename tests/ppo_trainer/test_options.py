"""What the algorithm's options do in whole steps."""

import json

import pytest
import torch

from ppo_lm.advantage import GAEAdvantage
from ppo_lm.config import PPOConfig
from ppo_lm.errors import ConfigError, DataError, NumericalFault, RunPaused
from ppo_lm.models.policy_model import states_before_actions
from ppo_lm.ops import masked_mean
from ppo_lm.ppo_trainer import PPOTrainer
from ppo_lm.rollout.slot_engine import SlotEngine
from ppo_lm.training import kl_loss, policy_loss
from tests.conftest import make_pairs
from tests.ppo_trainer.conftest import PROMPTS, fixed_pairs, gradients, make, setup


def by_length(prompts, completions):
    return [len(completion) / 10 for completion in completions]


def rows_of(out, kind="seconds"):
    return [row for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if kind in row]


def weights(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_the_value_model_warms_up_alone(folder, tmp_path):
    trainer = make(folder, tmp_path / "run", by_length, value_warmup_steps=2, steps=4, eval_every=0)
    before, policies, step = weights(trainer.roles.policy), [], trainer.ppo_step
    trainer.ppo_step = lambda *batch: (step(*batch), policies.append(weights(trainer.roles.policy)))[0]
    values = weights(trainer.roles.value)
    trainer.train(PROMPTS)
    assert torch.equal(policies[1], before) and not torch.equal(policies[2], before)
    assert not torch.equal(weights(trainer.roles.value), values)
    rows = rows_of(tmp_path / "run")
    assert ["policy_loss" in row for row in rows] == [False, False, True, True]
    assert ["value_loss" in row for row in rows] == [True] * 4
    assert rows[-1]["learning_rate"] == pytest.approx(
        0.0, abs=1e-12
    )  # the policy's schedule spans the steps it is trained in
    assert rows[-2]["learning_rate"] == pytest.approx(0.5e-2, rel=1e-6)


def test_a_target_kl_leaves_out_the_rest_of_a_steps_updates_and_the_schedule_goes_on():
    pairs = fixed_pairs()
    free, _ = setup(ppo_epochs=6, learning_rate=1e-2, lr_schedule="linear", steps=2)
    pairs = pairs.with_columns(old_logprobs=free.policy.action_logprobs(pairs).detach())
    found = free.train_models(pairs)
    assert found["policy_updates"] == 6
    held, _ = setup(ppo_epochs=6, learning_rate=1e-2, lr_schedule="linear", steps=2, target_kl=found["approx_kl"] / 4)
    stopped = held.train_models(pairs)
    assert 1 <= stopped["policy_updates"] < 6
    assert stopped["approx_kl"] < found["approx_kl"] / 4
    assert held.policy_optimiser.steps_done == held.value_optimiser.steps_done == 6
    assert held.policy_optimiser.learning_rate == pytest.approx(0.5e-2, rel=1e-6)


def test_the_mini_batch_that_a_target_kl_stops_on_is_counted():
    trainer, _ = setup(ppo_epochs=4, learning_rate=0.1, target_kl=1e-3)
    pairs = fixed_pairs()
    found = trainer.train_models(pairs.with_columns(old_logprobs=trainer.policy.action_logprobs(pairs).detach()))
    assert found["policy_updates"] == 1
    assert found["approx_kl"] > 1e-3 and found["clip_fraction"] > 0


def test_a_target_kl_does_not_take_a_broken_policy_for_one_that_has_moved():
    trainer, _ = setup(ppo_epochs=4, learning_rate=1e30, target_kl=1e-3)
    pairs = fixed_pairs()
    pairs = pairs.with_columns(old_logprobs=trainer.policy.action_logprobs(pairs).detach())
    before = weights(trainer.policy)
    with pytest.raises(NumericalFault, match="the KL to the policy that sampled is NaN or infinite"):
        trainer.train_models(pairs)
    assert torch.equal(weights(trainer.policy), before)


@pytest.mark.parametrize("mode", ["truncate", "mask"])
def test_importance_weights_count_in_the_surrogate_and_the_kl(mode):
    pairs = fixed_pairs()
    pairs = pairs.with_columns(sampler_logprobs=pairs.old_logprobs - 0.5 * pairs.values)
    floor = 0.0 if mode == "truncate" else 0.8
    trainer, roles = setup(
        max_grad_norm=1e9, importance_cap=1.5, importance_mode=mode, importance_floor=floor, old_logprobs="recomputed"
    )
    trust = (0.5 * pairs.values).exp()  # old over sampler
    outside = (trust < floor) | (trust > 1.5)
    assert (outside & (trust < 1))[pairs.action_mask].any() == (mode == "mask")
    assert (outside & (trust > 1))[pairs.action_mask].any()
    trust = trust.clamp(max=1.5) if mode == "truncate" else trust * ~outside
    new = roles.policy.action_logprobs(pairs)
    expected = policy_loss(new, pairs.old_logprobs, pairs.advantages, pairs.action_mask, 0.2).loss
    expected = expected + 0.5 * kl_loss(new, pairs.old_logprobs, pairs.ref_logprobs, pairs.action_mask, "k1")
    expected = masked_mean(expected * trust, pairs.action_mask)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(expected, roles.policy.parameters())])
    optimiser, caught = trainer.policy_optimiser, []
    optimiser.inner.register_step_pre_hook(
        lambda *_: caught.append(torch.cat([p.grad.flatten() for p in optimiser.parameters]))
    )
    trainer.train_policy_model(pairs, kl_coef=0.5)
    torch.testing.assert_close(caught[0], expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_a_step_takes_the_lambdas_of_its_options(folder):
    config = PPOConfig(
        model_name=folder,
        batch_size=4,
        lam_length_scale=0.3,
        value_target="returns",
        value_lam=0.4,
        whiten_advantages=False,
        lora_r=4,
        steps=3,
        device="cpu",
    )
    trainer, seen = PPOTrainer(config, reward=by_length), []
    with torch.no_grad():
        trainer.roles.value.head.linear.weight.normal_()  # with values of 0 the returns would not depend on λ alone
    trainer.model_trainer.train_models = lambda pairs, kl_coef: seen.append(pairs) or {}
    trainer.ppo_step(PROMPTS[:4])
    (pairs,) = seen
    gae = GAEAdvantage().compute_gae_advantages
    own = gae(pairs, config.gamma, (1 - 1 / (0.3 * pairs.lengths)).clamp(min=0))
    torch.testing.assert_close(pairs.advantages, own)
    torch.testing.assert_close(
        pairs.returns, torch.where(pairs.action_mask, gae(pairs, config.gamma, 0.4) + pairs.values, 0.0)
    )
    assert (own - gae(pairs, config.gamma, 0.95)).abs().max() > 1e-3 < (own - gae(pairs, config.gamma, 0.4)).abs().max()


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("cut", [{"top_k": 0, "top_p": 1.0}, {"top_k": 20, "top_p": 0.8}], ids=str)
def test_entropies_are_those_of_the_distributions_that_were_sampled_from(folder, fast, cut):
    trainer = PPOTrainer(
        PPOConfig(
            model_name=folder, temperature=0.7, fast=fast, rollout_slots=2, max_new_tokens=6, device="cpu", **cut
        ),
        reward=by_length,
    )
    pairs, _ = trainer.generator.generate_sequences(PROMPTS[:5])
    policy = trainer.roles.policy
    with torch.no_grad():
        _, expected = policy.logprobs_at(
            states_before_actions(policy.base, policy.role, pairs), pairs, 0.7, entropy=True
        )
    torch.testing.assert_close(pairs.entropies, expected, rtol=0, atol=1e-4)
    assert expected.max() > 0.5 and (pairs.entropies + pairs.old_logprobs).abs().max() > 0.1


def test_the_controller_waits_while_the_value_model_warms_up(folder, tmp_path):
    make(
        folder,
        tmp_path / "run",
        by_length,
        value_warmup_steps=2,
        steps=4,
        eval_every=0,
        adaptive_kl_target=6.0,
        adaptive_kl_horizon=20,
    ).train(PROMPTS)
    coefs = [row["kl_coef"] for row in rows_of(tmp_path / "run")]
    assert coefs[:3] == [0.1] * 3 and coefs[3] < 0.1


def test_advantages_are_whitened_unless_they_compare_responses_or_the_option_says_no(folder):
    settings = dict(model_name=folder, batch_size=4, responses_per_prompt=2, lora_r=4, device="cpu")
    found = [
        PPOTrainer(PPOConfig(**settings, **options), reward=by_length).whiten_advantages
        for options in ({}, {"advantage_estimator": "rloo"}, {"whiten_advantages": False})
    ]
    assert found == [True, False, False]


def test_the_kl_in_the_loss_adds_its_gradient():
    pairs = fixed_pairs()
    trainer, roles = setup(max_grad_norm=1e9, kl_estimator="k2")
    new = roles.policy.action_logprobs(pairs)
    kl = kl_loss(new, pairs.old_logprobs, pairs.ref_logprobs, pairs.action_mask, "k2")
    kl = masked_mean(kl, pairs.action_mask)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(kl, roles.policy.parameters())])
    plain, _ = gradients(pairs, "policy")
    caught = []
    optimiser = trainer.policy_optimiser
    optimiser.inner.register_step_pre_hook(
        lambda *_: caught.append(torch.cat([p.grad.flatten() for p in optimiser.parameters]))
    )
    metrics = trainer.train_policy_model(pairs, kl_coef=0.5)
    assert metrics["kl_loss"] == pytest.approx(kl.item(), rel=1e-5)
    torch.testing.assert_close(caught[0], plain + 0.5 * expected, rtol=0, atol=1e-4)
    assert expected.abs().max() > 1e-2


def test_with_the_kl_in_the_loss_the_rewards_have_none(folder):
    trainer = PPOTrainer(
        PPOConfig(
            model_name=folder,
            batch_size=4,
            kl_in="loss",
            kl_coef=0.5,
            lora_r=4,
            steps=3,
            learning_rate=1e-2,
            device="cpu",
        ),
        reward=by_length,
    )
    seen, train = [], trainer.model_trainer.train_models
    trainer.model_trainer.train_models = lambda pairs, kl_coef: (seen.append((pairs, kl_coef)), train(pairs, kl_coef))[
        1
    ]
    for _ in range(2):
        results = trainer.ppo_step(PROMPTS[:4])
    pairs, kl_coef = seen[1]
    assert kl_coef == 0.5 and "kl_loss" in results and pairs.kl.abs().max() > 1e-3
    torch.testing.assert_close(pairs.rewards.sum(dim=1), pairs.scores)


@pytest.mark.parametrize(
    "name", ["loss_aggregation", "importance_cap", "entropy_coef", "dual_clip", "clip_epsilon_high"]
)
def test_an_option_changes_the_gradient_and_micro_batches_do_not(name):
    value = {
        "loss_aggregation": "sequence_mean",
        "importance_cap": 1.5,
        "entropy_coef": 0.5,
        "dual_clip": 1.01,
        "clip_epsilon_high": 1e4,
    }[name]
    pairs = fixed_pairs()
    pairs = pairs.with_columns(sampler_logprobs=pairs.old_logprobs - 0.5 * pairs.values)
    extra = {"old_logprobs": "recomputed"} if name == "importance_cap" else {}
    plain, _ = gradients(pairs, "policy")
    whole, _ = gradients(pairs, "policy", **{name: value}, **extra)
    parts, _ = gradients(pairs, "policy", **{name: value}, **extra, micro_batch_tokens=15)
    assert (whole - plain).abs().max() > 1e-3
    torch.testing.assert_close(parts, whole, rtol=0, atol=2e-4)


@pytest.mark.parametrize("estimator", ["rloo", "group"])
def test_without_a_value_model_a_response_is_compared_with_the_others_of_its_prompt(folder, tmp_path, estimator):
    trainer = make(
        folder,
        tmp_path / "run",
        by_length,
        advantage_estimator=estimator,
        responses_per_prompt=2,
        whiten_advantages=False,
        steps=3,
        kl_coef=0.0,
        eval_every=0,
    )
    assert trainer.roles.value is None
    seen, train = [], trainer.model_trainer.train_models
    trainer.model_trainer.train_models = lambda pairs, kl_coef: (seen.append(pairs), train(pairs, kl_coef))[1]
    trainer.train(PROMPTS)
    for pairs in seen:
        totals = pairs.scores.view(-1, 2)
        expected = (
            totals - totals.flip(1)
            if estimator == "rloo"
            else (totals - totals.mean(1, keepdim=True)) / (totals.std(1, keepdim=True) + 1e-4)
        )
        torch.testing.assert_close(pairs.advantages, expected.flatten()[:, None] * pairs.action_mask, rtol=0, atol=1e-5)
        assert not pairs.columns().keys() & {"values", "td_errors", "reward_to_go", "returns"}
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 3 * 4 and all(
        first["prompt"] == second["prompt"] for first, second in zip(samples[::2], samples[1::2])
    )
    rows = rows_of(tmp_path / "run")
    assert all("policy_loss" in row for row in rows)
    assert not any("value" in name or name == "explained_variance" for row in rows for name in row)


def test_the_controller_moves_the_weight_of_the_next_step_and_is_resumed(folder, tmp_path):
    settings = dict(adaptive_kl_target=1.0, adaptive_kl_horizon=20, steps=6, eval_every=0, save_every=2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make(folder, whole, by_length, **settings).train(PROMPTS)
    rows = rows_of(whole)
    coef = 0.1
    for row in rows:
        assert row["kl_coef"] == pytest.approx(coef, rel=1e-9)
        coef *= 1 + min(max(row["kl"] / 1.0 - 1, -0.2), 0.2) * 4 / 20
    assert rows[-1]["kl_coef"] != 0.1

    calls = []

    def fails_once(prompts, completions):
        calls.append(1)
        if len(calls) == 6:  # two evaluations, then steps
            raise RuntimeError("out")
        return by_length(prompts, completions)

    fails_once.__name__ = by_length.__name__
    with pytest.raises(RunPaused):
        make(folder, parts, fails_once, **settings).train(PROMPTS)
    make(folder, parts, by_length, **settings).train(PROMPTS, resume=parts)
    assert [row["kl_coef"] for row in rows_of(parts)] == [row["kl_coef"] for row in rows]


def test_prompts_that_are_not_repeated_as_announced_are_refused(folder):
    trainer = PPOTrainer(
        PPOConfig(model_name=folder, batch_size=4, responses_per_prompt=2, lora_r=4, device="cpu"), reward=by_length
    )
    with pytest.raises(DataError, match="responses_per_prompt is 2; repeat every prompt 2 times in a row"):
        trainer.ppo_step(PROMPTS[:4])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adaptive_kl_target": 6.0, "kl_coef": 0.0}, "adaptive_kl_target is set but kl_coef is 0, and would stay 0"),
        (
            {"adaptive_kl_target": 6.0, "adaptive_kl_horizon": 20},
            "adaptive_kl_horizon is 20 but batch_size is 32; one step would overshoot",
        ),
        ({"kl_in": "loss", "kl_coef": 0.0}, "kl_in is loss but kl_coef is 0"),
        ({"target_kl": 0.1, "ppo_epochs": 1}, "so there is no update to skip"),
        ({"target_kl": 0.1, "value_backbone": "shared"}, "one update trains both policy and value model"),
        (
            {"value_model": "embedded", "value_backbone": "shared"},
            "value_model is set but value_backbone is shared, which only has a new head",
        ),
        ({"clip_epsilon": 1.5}, "clip_epsilon is 1.5; it must be above 0 and at most 1"),
        (
            {"responses_per_prompt": 5},
            "batch_size is 32 but responses_per_prompt is 5; make batch_size a multiple of responses_per_prompt",
        ),
        ({"value_warmup_steps": 100}, "the policy would never be trained"),
        ({"value_warmup_steps": 1, "value_backbone": "shared"}, "set value_backbone to separate"),
        ({"importance_cap": 2.0}, "set old_logprobs to recomputed"),
        (
            {"importance_mode": "mask", "old_logprobs": "recomputed"},
            "importance_mode is mask but importance_cap is 0, so there are no weights; set importance_cap",
        ),
        (
            {"importance_floor": 0.5, "importance_cap": 2.0, "old_logprobs": "recomputed"},
            "importance_floor is 0.5 but importance_mode is truncate, which only has a cap; set importance_mode",
        ),
        ({"value_lam": 1.0}, "value_target is reward_to_go, which is λ = 1"),
        ({"dual_clip": 0.5}, "dual_clip is 0.5; it must be 0 \\(off\\) or above 1"),
        ({"value_lam": 2.0, "value_target": "returns"}, "value_lam is 2.0; it must be between 0 and 1"),
    ],
)
def test_options_that_clash_are_reported_in_one_sentence(settings, message):
    with pytest.raises(ConfigError, match=message):
        PPOConfig(**settings)


def test_what_an_estimator_lacks_is_reported_with_all_other_problems_before_any_model_loads(tmp_path):
    config = PPOConfig(
        model_name="nobody/none",
        advantage_estimator="rloo",
        value_backbone="shared",
        policy_loss="clp",
        prompts=str(tmp_path / "none.txt"),
    )
    with pytest.raises(ConfigError) as caught:
        PPOTrainer(config)
    found = caught.value.problems
    assert len(found) == 4
    assert found[0].startswith("advantage_estimator is rloo but responses_per_prompt is 1")
    assert found[1].endswith("which has no value model, but value_backbone is shared; set it to separate")
    assert found[2].startswith("policy_loss is 'clp'; it must be one of clip")
    assert "none.txt': there is no such file" in found[3]


def test_skipped_steps_do_not_count_as_warm_up():
    trainer, _ = setup(value_warmup_steps=1, steps=3, ppo_epochs=1)
    pairs = make_pairs(rows=4, dtype=torch.float32)
    pairs = pairs.with_columns(old_logprobs=pairs.old_logprobs - 7)
    before = trainer.value_optimiser.snapshot()
    trainer.train_models(pairs)
    trainer.value_optimiser.go_back_to(before)
    assert "policy_loss" not in trainer.train_models(pairs)
    assert "policy_loss" in trainer.train_models(pairs)


def test_returns_come_before_whitening(folder):
    config = PPOConfig(model_name=folder, batch_size=4, value_target="returns", lora_r=4, steps=3, device="cpu")
    trainer = PPOTrainer(config, reward=by_length)
    seen = []
    trainer.model_trainer.train_models = lambda pairs, kl_coef: seen.append(pairs) or {}
    trainer.ppo_step(PROMPTS[:4])
    (pairs,) = seen
    plain = GAEAdvantage().compute_gae_advantages(pairs, config.gamma, config.lam)
    torch.testing.assert_close(pairs.returns, torch.where(pairs.action_mask, plain + pairs.values, 0.0))
    assert pairs.advantages[pairs.action_mask].mean().abs() < 1e-5 < plain[pairs.action_mask].mean().abs()


def test_evaluations_are_near_greedy_too(folder, tmp_path):
    trainer = make(folder, tmp_path / "run", by_length, steps=1, eval_temperature=0.02, temperature=0.7)
    made, make_generator = [], trainer._make_generator
    trainer._make_generator = lambda sampling, *clock: (made.append(sampling), make_generator(sampling, *clock))[1]
    trainer.train(PROMPTS)
    assert [(s.temperature, s.top_k, s.top_p) for s in made[:2]] == [(0.7, 50, 0.95), (0.02, 0, 1.0)]


@pytest.mark.parametrize(("batch_size", "slots", "expected"), [(2, 4, [4, 2]), (3, 2, [3, 3])])
def test_an_evaluation_samples_a_batch_at_once_or_as_many_as_there_are_slots(
    folder, tmp_path, monkeypatch, batch_size, slots, expected
):
    sampled, scored = [], []
    sample = SlotEngine.sample

    def watched(engine, prompt_ids, *arguments):
        sampled.append(len(prompt_ids))
        return sample(engine, prompt_ids, *arguments)

    def reward(completions):
        scored.append(len(completions))
        return [1.0] * len(completions)

    monkeypatch.setattr(SlotEngine, "sample", watched)
    settings = dict(steps=1, batch_size=batch_size, rollout_slots=slots, eval_prompts=6, mini_batches=1)
    make(folder, tmp_path / "run", reward, **settings).train([f"{prompt} {n}" for prompt in PROMPTS for n in range(12)])
    assert sampled == [*expected * 2, batch_size, *expected * 2]
    assert max(scored) == batch_size
