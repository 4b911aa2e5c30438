"""Reward models on the shared base."""

import copy
from dataclasses import replace

import pytest
import torch

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.base_setup import make_lora_config, set_up_roles
from ppo_lm.errors import NumericalFault, RewardError
from ppo_lm.models import RewardModel
from ppo_lm.rewards import FunctionReward, ModelReward, Responses, RewardComputer, load_reward
from tests.conftest import make_base, make_pairs

pytestmark = pytest.mark.fast

LORA = dict(lora_r=4, lora_alpha=8, lora_dropout=0.0, lora_targets="all-linear")
PROMPTS = ["TL;DR:", "POST: I moved out. TL;DR:", "My boss", "My sister Karen got arrested. TL;DR:"]
TEXTS = [" I am upset.", " Hm", " yelled at me last week.", " She did."]


def reward_model(seed=0, base=None) -> RewardModel:
    base = base or make_base()
    base.add_adapter("reward", make_lora_config(4, 8, 0.0))
    torch.manual_seed(seed)
    for weight in base.role_parameters("reward"):
        torch.nn.init.normal_(weight, std=0.2)
    return RewardModel(base)


def sampled(model, tokenizer=None):
    pairs = make_pairs(rows=4, vocabulary=500, dtype=torch.float32)
    return Responses.sampled(PROMPTS, TEXTS, {}, pairs, tokenizer or model.base.tokenizer)


def test_sampled_tokens_are_read_and_not_their_texts_whatever_the_micro_batches():
    model = reward_model()
    responses = sampled(model)
    pairs = responses.sa_pairs
    expected = torch.cat([model.scores(pairs.input_ids[i : i + 1], pairs.attention_mask[i : i + 1]) for i in range(4)])
    for tokens in (1, 20, 10_000):
        found = ModelReward.of(model, tokens).score(responses).total
        torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-5)


def test_texts_score_as_they_do_alone_whatever_the_micro_batches():
    model, tokenizer = reward_model(), make_base().tokenizer
    ids = [tokenizer(prompt)["input_ids"] + tokenizer(text)["input_ids"] + [1] for prompt, text in zip(PROMPTS, TEXTS)]
    expected = torch.cat([model.scores(torch.tensor([i]), torch.ones(1, len(i), dtype=torch.bool)) for i in ids])
    for tokens in (1, 20, 10_000):
        found = ModelReward.of(model, tokens).score(Responses(PROMPTS, TEXTS)).total
        torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-5)


def test_a_response_that_stopped_is_read_as_its_text_with_an_end_token():
    model = reward_model()
    reward, tokens = ModelReward.of(model), sampled(model)
    stopped = torch.tensor([True, False, True, False])
    responses = replace(tokens, sa_pairs=tokens.sa_pairs.with_columns(stopped=stopped, terminated=stopped))
    responses.columns["terminated"][:] = stopped.tolist()
    from_texts = reward.score(Responses(PROMPTS, TEXTS)).total
    expected = torch.where(stopped, from_texts, reward.score(tokens).total)
    torch.testing.assert_close(reward.score(responses).total, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(expected, reward.score(tokens).total, atol=1e-2)


def test_tokens_of_another_vocabulary_are_read_as_texts():
    model = reward_model()
    reward, (twin, other) = ModelReward.of(model), (copy.deepcopy(model.base.tokenizer) for _ in range(2))
    other.add_tokens(["a token of its own"])
    tokens = sampled(model)
    texts = Responses(PROMPTS, TEXTS, {"terminated": tokens.columns["terminated"]})
    from_tokens, from_texts = reward.score(tokens).total, reward.score(texts).total
    assert (from_tokens - from_texts).abs().min() > 1e-2
    torch.testing.assert_close(reward.score(sampled(model, twin)).total, from_tokens, rtol=0, atol=0)
    torch.testing.assert_close(reward.score(sampled(model, other)).total, from_texts, rtol=0, atol=0)


def test_damaged_weights_are_a_numerical_fault_with_the_batch():
    model = reward_model()
    with torch.no_grad():
        model.head.linear.bias.fill_(torch.nan)
    responses = sampled(model)
    with pytest.raises(NumericalFault, match="NaN or infinite; its weights may be damaged") as fault:
        RewardComputer(ModelReward.of(model)).compute_rewards(responses)
    assert fault.value.batch is responses.sa_pairs


def test_a_model_that_was_not_made_ready_says_so(tmp_path):
    with pytest.raises(RewardError, match="call make_ready first"):
        ModelReward.saved_in(tmp_path).score(Responses(PROMPTS, TEXTS))


def test_several_reward_models_share_the_base_beside_functions_and_the_value_model_starts_from_the_first(tmp_path):
    for seed in (0, 1):
        reward_model(seed).save(tmp_path / str(seed))
    function = FunctionReward(lambda completions: [1.0] * len(completions), "function")
    rewards = [load_reward(str(tmp_path / "0")), function, load_reward(str(tmp_path / "1"))]
    computer, base = RewardComputer(rewards, weights=[1.0, 5.0, -1.0]), make_base()
    roles = set_up_roles(base, **LORA, load_rewards=computer.make_ready)
    assert computer.names == ["reward_model", "function", "reward_model_2"]
    assert base.roles == ["reward", "reward_2", "policy", "value"]
    assert [model.base for model in roles.rewards] == [base, base]
    responses = sampled(roles.rewards[0])
    first, second = (ModelReward.of(reward_model(seed)).score(responses).total for seed in (0, 1))
    found = computer.compute_rewards(responses)
    torch.testing.assert_close(found.total, first + 5 - second, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.parts["reward_model_2"], second, rtol=0, atol=1e-5)
    for value, reward in zip(base.role_parameters("value"), base.role_parameters("reward"), strict=True):
        assert torch.equal(value, reward) and value.requires_grad and not reward.requires_grad


def test_a_reward_model_may_be_the_monitor():
    config = PPOConfig(
        model_name="embedded", reward="embedded", monitor="embedded", batch_size=4, max_new_tokens=20, device="cpu"
    )
    results = PPOTrainer(config).ppo_step(PROMPTS)
    assert results["monitor"] == pytest.approx(results["score"], abs=1e-6)
    assert results["floor/reward"] > 0
