"""Sampling in slots against sampling through transformers."""

import weakref

import pytest
import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ppo_lm.errors import UserError
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.rollout import PlainEngine, SamplingSettings, SlotEngine, pick_engine, sample_tokens
from ppo_lm.rollout import plain_engine as plain_engine_module
from ppo_lm.rollout import slot_engine as slot_engine_module
from tests.conftest import SMALL, make_base
from tests.rollout.conftest import make_policy, make_prompts, sample

NETWORKS = {
    "llama": (None, False),
    "all weights": (None, True),
    "qwen3": (lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL)), False),
    "mistral": (lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=None)), False),
    "a window": (lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=5)), False),
    "biases": (lambda: make_base(attention_bias=True, mlp_bias=True).network, False),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("slots", [64, 13, 4, 1])
def test_slots_sample_what_transformers_samples_however_many_there_are(network, slots):
    torch.manual_seed(0)
    make, full = NETWORKS[network]
    policy, prompts = make_policy(make and make(), full), make_prompts()
    if network == "biases":
        for name, parameter in policy.base.network.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter.data, std=0.5)
    settings = SamplingSettings(40, temperature=1.1)
    texts, logprobs, _ = sample(PlainEngine(policy), settings, prompts)
    slot_texts, slot_logprobs, _ = sample(SlotEngine(policy, MemoryBudget(slots=slots)), settings, prompts)
    assert len({len(text) for text in texts}) > 4
    assert slot_texts == texts
    width = min(logprobs.shape[1], slot_logprobs.shape[1])
    torch.testing.assert_close(slot_logprobs[:, :width], logprobs[:, :width], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [SamplingSettings(12, top_k=7), SamplingSettings(12, top_k=30, top_p=0.7), SamplingSettings(12, temperature=0)],
    ids=str,
)
def test_supports_and_greedy_are_the_same_too(settings):
    policy, prompts = make_policy(), make_prompts()
    assert (
        sample(SlotEngine(policy, MemoryBudget(slots=4)), settings, prompts)[0]
        == sample(PlainEngine(policy), settings, prompts)[0]
    )
    theirs, ours = (
        sample(engine, settings, prompts)[2]
        for engine in (PlainEngine(policy), SlotEngine(policy, MemoryBudget(slots=4)))
    )
    assert (theirs is None) == (ours is None)
    if ours is not None:
        assert [[set(t) for t in row] for row in ours] == [[set(t) for t in row] for row in theirs]


def test_every_call_reads_the_current_adapter():
    policy, prompts, settings = make_policy(), make_prompts(), SamplingSettings(10)
    engine = SlotEngine(policy, MemoryBudget(slots=8))
    before = sample(engine, settings, prompts)[1]
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.3)
    after = sample(engine, settings, prompts)
    assert after[0] == sample(PlainEngine(policy), settings, prompts)[0]
    assert not torch.allclose(after[1][:, :3], before[:, :3], atol=1e-2)


def test_bf16_weights_sample_from_nearly_the_same_distribution():
    policy, prompts = make_policy(make_base(initializer_range=0.1).network, dtype=torch.bfloat16), make_prompts()
    settings = SamplingSettings(1)
    (_, plain, _), (_, slots, _) = (
        sample(engine, settings, prompts) for engine in (PlainEngine(policy), SlotEngine(policy, MemoryBudget(slots=8)))
    )
    assert (plain - slots).abs().mean() < 0.05


def test_finished_slots_are_refilled(monkeypatch):
    """Steps, not seconds: four times as many prompts as slots, half of the responses ending at once."""
    policy, (ids, mask) = make_policy(), make_prompts(rows=32)
    steps = []
    step = slot_engine_module.KVCache.step
    monkeypatch.setattr(
        slot_engine_module.KVCache, "step", lambda cache, ids: steps.append(len(ids)) or step(cache, ids)
    )
    texts, _, _ = sample(SlotEngine(policy, MemoryBudget(slots=8)), SamplingSettings(40), (ids, mask))
    decoded = sum(len(text) - 1 for text in texts)  # each first token comes from reading the prompt
    assert sum(steps) == decoded  # no slot ever decodes for a response that has ended
    assert max(steps) <= 8
    longest = sum(max(len(text) for text in texts[i : i + 8]) for i in range(0, 32, 8))
    assert len(steps) < longest  # and the groups do not wait for their longest


@pytest.mark.parametrize(
    "settings", [SamplingSettings(20, temperature=1.1), SamplingSettings(20, top_k=30, top_p=0.7)], ids=str
)
@pytest.mark.parametrize("slots", [1, 4, 12])
def test_transformers_sample_the_same_however_many_rows_at_once(slots, settings):
    policy, prompts = make_policy(), make_prompts()
    texts, logprobs, support = sample(PlainEngine(policy), settings, prompts)
    parts = sample(PlainEngine(policy, MemoryBudget(slots=slots)), settings, prompts)
    assert len({len(text) for text in texts}) > 4
    assert (parts[0], parts[2]) == (texts, support)
    torch.testing.assert_close(parts[1], logprobs, rtol=0, atol=1e-4)


def cramp(most, monkeypatch):
    """Let memory run out when more than `most` responses are sampled at once. Returns the list of how many were tried,
    and the one of what was still held of failed attempts when torch's cache was emptied."""
    tried, tensors, held = [], [], []

    def cramped(logits, *rest):
        tried.append(len(logits))
        if len(logits) > most:
            big = torch.zeros(1000)  # lives in this frame, which the error's traceback holds
            tensors.append(weakref.ref(big))
            raise RuntimeError("CUDA driver error: out of memory")
        return sample_tokens(logits, *rest)

    for module in (slot_engine_module, plain_engine_module):
        monkeypatch.setattr(module, "sample_tokens", cramped)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: held.append([t() for t in tensors if t() is not None]))
    return tried, held


@pytest.mark.parametrize("engine", [SlotEngine, PlainEngine])
def test_running_out_of_memory_halves_the_slots_and_changes_no_token(engine, monkeypatch):
    policy, prompts, settings = make_policy(), make_prompts(), SamplingSettings(10)
    expected = sample(engine(policy, MemoryBudget(slots=8)), settings, prompts)[0]
    tried, held = cramp(3, monkeypatch)
    said = []
    budget = MemoryBudget(slots=8, say=said.append)
    assert sample(engine(policy, budget), settings, prompts)[0] == expected
    assert budget.slots == 2
    assert said == [
        "out of memory while sampling 8 responses at once; at most 4 from now on",
        "out of memory while sampling 4 responses at once; at most 2 from now on",
    ]
    assert held == [[], []]
    tried.clear()
    assert sample(engine(policy, budget), settings, prompts)[0] == expected
    assert max(tried) == 2  # it is not tried with more again


@pytest.mark.parametrize("engine", [SlotEngine, PlainEngine])
def test_too_little_memory_for_one_response_is_reported_in_one_sentence(engine, monkeypatch):
    cramp(0, monkeypatch)
    with pytest.raises(UserError, match="out of memory while sampling one response at a time .*; lower max_new_tokens"):
        sample(engine(make_policy()), SamplingSettings(4), make_prompts())


def test_networks_of_other_families_are_sampled_through_transformers():
    settings = {name: value for name, value in SMALL.items() if name not in ("num_key_value_heads", "head_dim")}
    policy = make_policy(GPTNeoXForCausalLM(GPTNeoXConfig(**settings)))
    engine = pick_engine(policy)
    assert isinstance(engine, PlainEngine)
    assert engine.description.endswith("its model_type 'gpt_neox' is not one of llama, mistral, qwen2, qwen3")
    assert isinstance(pick_engine(make_policy()), SlotEngine)


@pytest.mark.parametrize("uniform", [0.0, 0.4999999, 0.5000001, 0.7999999, 0.8000001, 0.9999999999])
def test_a_uniform_number_picks_the_token_whose_interval_contains_it(uniform):
    logits = torch.tensor([[0.5, 0.0, 0.3, 0.2, 0.0]]).log()
    expected = 0 if uniform < 0.5 else 2 if uniform < 0.8 else 3
    token, logprob, *_ = sample_tokens(logits, SamplingSettings(1), torch.tensor([uniform], dtype=torch.float64))
    assert token.item() == expected
    assert logprob.item() == pytest.approx(logits[0, expected].item(), abs=1e-6)
