"""`min_new_tokens` and stop strings in whole steps and runs."""

import json

import pytest
import torch

from ppo_lm import PPOConfig
from ppo_lm.errors import CheckpointError, RunPaused
from ppo_lm.evaluation import sampling_kinds
from ppo_lm.experience_buffer import compute_in_micro_batches
from tests.ppo_trainer.conftest import FOUR_PROMPTS, PROMPTS, length_reward, make, trainer

ENDS = list(range(1, 400))  # a quarter of the vocabulary
SETTINGS = dict(max_new_tokens=10, min_new_tokens=4, stop_strings=["e", "th"], ppo_epochs=1, learning_rate=1e-2)
SUPPORTS = {"top-k": dict(top_k=50, top_p=0.95), "whole vocabulary": dict(top_k=0, top_p=1.0)}


def trainer_that_ends(folder, **settings):
    made = trainer(folder, **{**SETTINGS, **settings})
    made.base.eos_token_ids = ENDS
    return made


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("others", [{}, {"lora_r": 0}, {"fast": False}, {"value_backbone": "shared"}], ids=str)
def test_the_ratio_is_1_and_the_reference_is_the_policy_before_the_first_update(folder, support, others):
    made = trainer_that_ends(folder, temperature=1.2, **SUPPORTS[support], **others)
    results = made.ppo_step(FOUR_PROMPTS)
    assert results["ratio"] == pytest.approx(1, abs=1e-5)
    assert results["sampler_gap"] < 1e-5 and abs(results["kl"]) < 1e-4
    assert 0 < results["ended"] <= 1 and results["length"] > 4
    pairs, _ = made.generator.generate_sequences(FOUR_PROMPTS)  # the policy has moved
    logprobs = compute_in_micro_batches(pairs, made.budget, lambda part: made.roles.policy.action_logprobs(part, 1.2))
    assert ((logprobs - pairs.old_logprobs).exp() - 1).abs().max() < 1e-4
    assert (pairs.old_logprobs - pairs.ref_logprobs).abs().max() > 1e-3


def test_the_observed_alternatives_are_those_that_could_be_sampled(folder):
    made = trainer_that_ends(folder, top_k=0, top_p=1.0)
    with made.observer.looking_at(4):
        seen = made.ppo_step(FOUR_PROMPTS)["observed"]
    for choices in seen.choices.values():
        assert not torch.isin(choices.ids[:, :4], torch.tensor(ENDS)).any()
        assert torch.isin(choices.ids[:, 4:], torch.tensor(ENDS)).any()


def test_the_score_of_a_response_that_stopped_is_its_own(folder):
    """It counts as ended, the reward gets the text before the stop string, and its last token gets the score."""
    seen = {}

    def reward(prompts, completions, terminated, completion_ids):
        seen.update(texts=completions, terminated=terminated, ids=completion_ids)
        return [1.0] * len(prompts)

    made = trainer(
        folder, reward, max_new_tokens=4, stop_strings=["e", "th"], missing_eos_score=-5.0, kl_coef=0.0, seed=1
    )
    adjusted, adjust = [], made.reward_adjuster.adjust_rewards_with_kl
    made.reward_adjuster.adjust_rewards_with_kl = lambda *args: adjusted.append(adjust(*args)) or adjusted[-1]
    results = made.ppo_step(FOUR_PROMPTS)
    pairs = adjusted[0]
    assert 0 < results["ended"] == pairs.terminated.float().mean() < 1
    decode = made.base.tokenizer.decode
    for row, text in enumerate(seen["texts"]):
        whole, ended = decode(seen["ids"][row], skip_special_tokens=True), seen["terminated"][row]
        assert ended == any(string in whole for string in ("e", "th")) == bool(pairs.stopped[row])
        assert whole.startswith(text) and "e" not in text and "th" not in text
        assert not ended or not any(s in decode(seen["ids"][row][:-1]) for s in ("e", "th"))
        rewards = pairs.rewards[row, : len(seen["ids"][row])].tolist()
        assert rewards == [0.0] * (len(rewards) - 1) + [1.0 if ended else -5.0]


def test_a_step_is_the_same_whatever_the_engine(folder):
    found = []
    for engine in ("slots", "graphs", "transformers"):
        made = trainer_that_ends(folder, engine=engine)
        made.ppo_step(FOUR_PROMPTS)
        results = made.ppo_step(FOUR_PROMPTS)
        found.append((results["generated_texts"], pytest.approx(results["policy_loss"], abs=1e-4)))
    assert found[0] == found[1] == found[2]


def test_evaluations_end_responses_as_training_does():
    config = PPOConfig(min_new_tokens=2, stop_strings=["\n", "e"])
    for kind in sampling_kinds(config).values():
        assert (kind.min_new_tokens, kind.stop_strings) == (2, ("\n", "e"))


def test_a_run_stops_at_stop_strings_and_resumes_only_with_the_same_settings(folder, tmp_path):
    settings = dict(max_new_tokens=6, min_new_tokens=1, stop_strings=["e", "\n"], batch_size=4, steps=2, eval_prompts=2)

    calls = []

    def fails_in_step_two(prompts, completions):
        calls.append(completions)
        assert len(calls) != 4, "the judge is out"
        return length_reward(prompts, completions)

    with pytest.raises(RunPaused):
        make(folder, tmp_path / "run", fails_in_step_two, **settings).train(PROMPTS, quiet=True)
    for changed in ({"min_new_tokens": 2}, {"stop_strings": ["e"]}):
        with pytest.raises(CheckpointError, match=f"{next(iter(changed))} was"):
            make(folder, tmp_path / "run", length_reward, **{**settings, **changed}).train(
                PROMPTS, resume=tmp_path / "run", quiet=True
            )
    run = make(folder, tmp_path / "run", fails_in_step_two, **settings)
    found = run.train(PROMPTS, resume=tmp_path / "run", quiet=True)
    texts = [text for kind in found.values() for made in kind for text in made.texts]
    samples = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    texts += [json.loads(line)["completion"] for line in samples]
    assert len(texts) == 12 and not any("e" in text or "\n" in text for text in texts)
    assert any(made.ended > 0 for made in found["sampled"])
