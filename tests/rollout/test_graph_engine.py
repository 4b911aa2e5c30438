"""The engine whose decode step a GPU records: what it samples, and that a step can be recorded."""

import random

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.fast import packed_linear
from ppo_lm.rollout import GraphEngine, SamplingSettings, SlotEngine
from tests.conftest import uniforms
from tests.rollout.conftest import EOS, make_policy, make_prompts, sample


def random_case(rng: random.Random):
    settings = SamplingSettings(
        rng.choice([1, 2, 5, 9, 17, 30]),
        temperature=rng.choice([0.0, 0.7, 1.0, 1.3]),
        top_k=rng.choice([0, 0, 1, 7, 40]),
        top_p=rng.choice([1.0, 1.0, 0.6, 0.9]),
    )
    if settings.top_k == 0 and settings.top_p < 1:  # a support of the whole vocabulary is large
        settings = SamplingSettings(settings.max_new_tokens, settings.temperature, 60, settings.top_p)
    rows, width = rng.choice([1, 2, 3, 5, 8, 13, 24]), rng.choice([1, 4, 9, 20])
    ids, mask = make_prompts(rows, width)
    ids = ids.roll(rng.randrange(9), dims=0) * mask
    return settings, (ids, mask), rng.choice([1, 2, 3, 5, 9, 16, 64]), rng.choice([1, 3, 8]), rng.randrange(150)


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 10))])
def test_a_thousand_random_cases_sample_what_slots_sample(part):
    """Lengths, EOS, slots, refills, truncation; every engine is used for several cases, as in a run."""
    rng, policy = random.Random(part), make_policy()
    engines = {}
    for _ in range(100):
        settings, prompts, slots, every, ends = random_case(rng)
        policy.base.eos_token_ids = EOS[:ends]
        drawn = uniforms(prompts[0], settings)
        expected = SlotEngine(policy, MemoryBudget(slots=slots)).sample(*prompts, settings, drawn)
        if (slots, every, ends) not in engines:
            engines = {(slots, every, ends): GraphEngine(policy, MemoryBudget(slots=slots), every)}
        for engine in engines.values():
            found = engine.sample(*prompts, settings, drawn)
            same(found, expected, policy.base.eos_token_ids)


def same(found, expected, eos):
    """Up to the first EOS of each row; what comes after it is ignored."""
    width = min(found.ids.shape[1], expected.ids.shape[1])
    ended = torch.isin(expected.ids, torch.tensor(eos)).long().cumsum(dim=1)
    before = ended - torch.isin(expected.ids, torch.tensor(eos)).long() == 0
    assert not before[:, width:].any()
    before = before[:, :width]
    assert torch.equal(found.ids[:, :width][before], expected.ids[:, :width][before])
    for name in ("logprobs", "entropies"):
        ours, theirs = getattr(found, name)[:, :width][before], getattr(expected, name)[:, :width][before]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)
    assert (found.support_ids is None) == (expected.support_ids is None)
    if found.support_ids is not None:
        assert torch.equal(found.support_ids[:, :width][before], expected.support_ids[:, :width][before])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("full", [False, True], ids=["adapter", "all weights"])
def test_every_call_reads_the_current_weights(full, dtype):
    policy, prompts, settings = make_policy(full=full, dtype=dtype), make_prompts(), SamplingSettings(10)
    engine = GraphEngine(policy, MemoryBudget(slots=8))
    before = sample(engine, settings, prompts)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.3)
    after = sample(engine, settings, prompts)
    assert after[0] == sample(SlotEngine(policy, MemoryBudget(slots=8)), settings, prompts)[0] != before[0]


@pytest.mark.parametrize("engine", [GraphEngine, SlotEngine])
def test_what_was_sampled_can_be_used_by_autograd(engine):
    prompts = make_prompts()
    found = engine(make_policy(), MemoryBudget(slots=8)).sample(
        *prompts, SETTINGS[1], uniforms(prompts[0], SETTINGS[1])
    )
    assert found.entropies is not None and found.support_ids is not None
    for column in (found.ids, found.logprobs, found.entropies, found.support_ids):
        assert not column.is_inference()


SETTINGS = [
    SamplingSettings(12),
    SamplingSettings(12, top_k=30, top_p=0.7),
    SamplingSettings(12, temperature=0),
    SamplingSettings(12, min_new_tokens=4),
]


def started_slots(settings, monkeypatch):
    """An engine's slots after the first tokens of some responses, and the number of slots."""
    monkeypatch.setattr(packed_linear, "has_layouts", lambda weight: False)  # an operation that cannot be traced
    policy, (ids, mask) = make_policy(), make_prompts(rows=6)
    slots, _ = GraphEngine(policy, MemoryBudget(slots=6))._prepare(6, ids.shape[1] + 12, settings)
    slots.start(torch.arange(6), ids, mask, uniforms(ids, SamplingSettings(12)))
    return slots


def state(slots):
    tensors = [slots.token, slots.length, slots.made, slots.running, *slots.columns()]
    return [tensor.clone() for tensor in (*tensors, slots.memory.keys, slots.memory.values)]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_recorded_step_does_what_a_step_does(settings, monkeypatch, without_kernels):
    """Traced once, and then the same operations on the same memory, as a CUDA graph. What our own kernels do on a CPU
    cannot be traced."""
    with torch.no_grad():
        eager, recorded = (started_slots(settings, monkeypatch) for _ in range(2))
        width = eager.memory.width

        def step(made):
            recorded.step(6, width)
            return made

        graph = make_fx(step)(torch.zeros(()))  # tracing makes a step
        eager.step(6, width)
        for _ in range(8):
            eager.step(6, width)
            graph(torch.zeros(()))
    for ours, theirs in zip(state(recorded), state(eager), strict=True):
        assert torch.equal(ours, theirs)
    assert int(eager.made.max()) > 8
