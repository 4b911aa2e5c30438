"""Engines by name, engines of one's own, and how the policy's weights reach them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.errors import ConfigError, ModelError
from ppo_lm.models import BaseModel, PolicyModel
from ppo_lm.rollout import PlainEngine, RolloutEngine, Sampled, SlotEngine, find_engine
from tests.conftest import make_base
from tests.ppo_trainer.conftest import FOUR_PROMPTS as PROMPTS
from tests.ppo_trainer.conftest import length_reward, trainer

WHOLE = dict(max_new_tokens=12, top_k=0, top_p=1.0, learning_rate=1e-2)
OWN = f"{Path(__file__).parents[2] / 'examples' / 'own_engine.py'}:Generate"


def test_an_engine_from_a_file_without_entropies_samples_for_a_ppo_step(folder):
    trained = trainer(folder, engine=OWN, temperature=1.3, **WHOLE)
    trained.ppo_step(PROMPTS)
    results = trained.ppo_step(PROMPTS)  # the adapter has moved
    assert results["sampler_gap"] < 1e-5  # what was sampled is what is trained
    assert results["approx_kl"] > 0
    assert trained.engine.description == "sampled by Generate"


@pytest.mark.parametrize("old_logprobs", ["sampled", "recomputed"])
def test_entropies_that_an_engine_leaves_out_are_those_of_the_distribution_that_was_sampled_from(folder, old_logprobs):
    settings = dict(WHOLE, temperature=1.3, old_logprobs=old_logprobs)
    trained = trainer(folder, engine=OWN, **settings)
    trained.ppo_step(PROMPTS)
    pairs, _ = trained.generator.generate_sequences(PROMPTS)
    network = trained.base.merged_network("policy").network
    for row in range(pairs.sequences):
        ids, count = pairs.input_ids[row][pairs.attention_mask[row]], int(pairs.lengths[row])
        with torch.no_grad():
            logprobs = (network(ids[None]).logits[0, -count - 1 : -1] / 1.3).log_softmax(dim=1)
        expected = torch.special.entr(logprobs.exp()).sum(dim=1)
        torch.testing.assert_close(pairs.require("entropies")[row, :count], expected, rtol=0, atol=1e-4)
        chosen = logprobs.gather(1, pairs.action_ids[row, :count, None])[:, 0]
        torch.testing.assert_close(pairs.old_logprobs[row, :count], chosen, rtol=0, atol=1e-4)
    assert pairs.require("entropies")[~pairs.action_mask].abs().sum() == 0


def test_greedy_samples_have_no_entropy_whoever_samples(folder):
    trained = trainer(folder, engine=OWN, **WHOLE)
    generator = trained._make_generator(replace(trained.generator.sampling, temperature=0))
    pairs, _ = generator.generate_sequences(PROMPTS)
    assert pairs.require("entropies").abs().sum() == 0


class Elsewhere(RolloutEngine):
    """As in another process: a network of its own, which gets the policy's weights only when it is told to."""

    def __init__(self):
        self.updates, self.samples, self.inner = 0, 0, None

    def update_weights(self, policy):
        self.updates += 1
        network = AutoModelForCausalLM.from_config(policy.base.network.config)
        network.load_state_dict(policy.base.merged_weights(policy.role).weights)
        base = BaseModel(network, policy.base.tokenizer, policy.base.eos_token_ids, "elsewhere")
        self.inner = PlainEngine(PolicyModel(base, None))

    def sample(self, *arguments):
        self.samples += 1
        sampled = self.inner.sample(*arguments)
        return Sampled(sampled.ids, sampled.logprobs)


def test_an_engine_with_its_own_weights_gets_them_when_they_may_have_changed(folder):
    """Two steps and three evaluations of two kinds, each of two batches."""
    config = PPOConfig(model_name=folder, batch_size=4, steps=2, eval_prompts=8, eval_every=1, rollout_slots=4, **WHOLE)
    prompts = [f"{prompt} {n}" for n in range(80) for prompt in PROMPTS][:80]
    engine = Elsewhere()
    theirs = PPOTrainer(config, reward=length_reward, engine=engine)
    found = theirs.train(prompts)
    assert (engine.updates, engine.samples) == (2 + 3 * 2, 2 + 3 * 2 * 2)
    expected = PPOTrainer(config, reward=length_reward).train(prompts)
    assert [made.texts for made in found["sampled"]] == [made.texts for made in expected["sampled"]]
    assert found["sampled"][0].texts != found["sampled"][2].texts  # the policy moved
    assert [made.kl for made in found["sampled"]] == pytest.approx([made.kl for made in expected["sampled"]], abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, SlotEngine),
        ({"engine": "slots"}, SlotEngine),
        ({"engine": "transformers"}, PlainEngine),
        ({"fast": False}, PlainEngine),
    ],
    ids=str,
)
def test_an_engine_is_chosen_by_name(folder, settings, kind):
    trained = trainer(folder, **settings, **WHOLE)
    assert type(trained.engine) is kind
    assert trained.generator.engine is trained.engine
    if "engine" in settings:
        assert (
            trained.ppo_step(PROMPTS)["generated_texts"]
            == trainer(folder, **WHOLE).ppo_step(PROMPTS)["generated_texts"]
        )


def test_a_wrong_name_is_reported_with_all_other_problems_before_a_model_loads():
    config = PPOConfig(model_name="/no/model", engine="slot", prompts="/no/prompts.txt")
    with pytest.raises(ConfigError) as error:
        PPOTrainer(config)
    text = str(error.value)
    assert "2 problems" in text and "/no/prompts.txt" in text
    assert (
        "engine is 'slot'; it must be one of auto, slots, graphs, transformers, vllm, sglang; did you mean 'slots'?"
        in text
    )


def test_slots_that_cannot_sample_from_a_network_say_why(folder):
    with pytest.raises(ModelError, match="engine slots cannot sample from .*: fast is off; set engine to auto"):
        trainer(folder, engine="slots", fast=False)
    network = GPT2LMHeadModel(GPT2Config(vocab_size=1536, n_embd=32, n_layer=2, n_head=4))
    base = BaseModel(network, make_base().tokenizer, [1], "a GPT-2")
    with pytest.raises(ModelError, match="engine slots cannot sample from a GPT-2: "):
        find_engine("slots")(PolicyModel(base, None), None)


def test_what_is_not_an_engine_is_refused_with_what_it_lacks(folder):
    class Half:
        def sample(self, *arguments): ...

    with pytest.raises(ConfigError, match="engine Half has no update_weights, description; inherit from"):
        PPOTrainer(PPOConfig(model_name=folder), reward=length_reward, engine=Half())


def test_a_cut_vocabulary_needs_an_engine_that_knows_the_cut(folder):
    trained = trainer(folder, engine=OWN, top_k=20, top_p=1.0)
    with pytest.raises(ConfigError, match="top_k is 20 .* Generate does not report which tokens .*; set top_k to 0"):
        trained.ppo_step(PROMPTS)


class Shifted(RolloutEngine):
    """Samples as the policy does, but states every other log-probability 0.5 nats too low."""

    def __init__(self, inner):
        self.inner = inner

    def sample(self, *arguments):
        sampled = self.inner.sample(*arguments)
        shift = torch.tensor([0.5, 0.0]).repeat(len(sampled.ids), sampled.ids.shape[1])[:, : sampled.ids.shape[1]]
        return replace(sampled, logprobs=sampled.logprobs - shift)


@pytest.mark.parametrize(
    ("bounds", "clipped"),
    [
        ({}, None),
        ({"importance_cap": 1.1}, 0.5),
        ({"importance_cap": 1.7}, 0.0),
        ({"importance_cap": 1.1, "importance_mode": "mask", "importance_floor": 0.9}, 0.5),
    ],
)
def test_importance_weights_are_logged_before_they_are_truncated_or_masked(folder, bounds, clipped):
    trained = trainer(folder, old_logprobs="recomputed", **bounds, **WHOLE)
    trained.generator.engine = Shifted(trained.engine)
    results = trained.ppo_step(PROMPTS)
    assert results["length"] == 12  # as many tokens of either kind
    assert results["importance_mean"] == pytest.approx((torch.e**0.5 + 1) / 2, abs=1e-4)
    assert results["importance_min"] == pytest.approx(1, abs=1e-4)
    assert results["importance_max"] == pytest.approx(torch.e**0.5, abs=1e-4)
    assert results.get("importance_clip_fraction") == clipped
    assert "importance_max" not in trainer(folder, **WHOLE).ppo_step(PROMPTS)
