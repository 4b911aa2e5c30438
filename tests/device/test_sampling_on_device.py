"""Sampling on the device against the CPU, and what it costs there."""

from contextlib import contextmanager

import pytest
import torch

from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.rollout import GraphEngine, PlainEngine, SamplingSettings, SlotEngine, pick_engine
from tests.device.conftest import NETWORKS, make_policy
from tests.device.sync_counter import SyncCounter
from tests.rollout.conftest import make_prompts, sample

SETTINGS = [
    SamplingSettings(40),
    SamplingSettings(40, top_k=20, top_p=0.9),
    SamplingSettings(40, top_p=0.8, temperature=1.3),
    SamplingSettings(40, temperature=0),
    SamplingSettings(40, min_new_tokens=5),
    SamplingSettings(40, top_k=20, min_new_tokens=5),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("slots", [64, 5])
def test_a_seed_samples_what_transformers_samples_on_a_cpu(device, family, slots, settings):
    ids, mask = make_prompts(rows=24)
    torch.backends.cuda.matmul.allow_tf32 = False
    expected = sample(PlainEngine(make_policy(torch.device("cpu"), family)), settings, (ids, mask))
    engine = pick_engine(make_policy(device, family), MemoryBudget(slots=slots))
    assert isinstance(engine, GraphEngine if device.type == "cuda" else SlotEngine)
    for _ in range(3):  # a GPU launches every operation, then records them, then replays them
        texts, logprobs, _ = sample(engine, settings, (ids.to(device), mask.to(device)))
        same = [row for row, text in enumerate(texts) if text == expected[0][row]]
        assert len(texts) - len(same) <= at_the_edge(settings)
        width = min(logprobs.shape[1], expected[1].shape[1])
        torch.testing.assert_close(logprobs[same, :width].cpu(), expected[1][same, :width], rtol=0, atol=1e-4)


def at_the_edge(settings: SamplingSettings) -> int:
    """How many responses may differ because a token lies within rounding of the edge of top-p: among a whole
    vocabulary, many have about the probability of the last one inside."""
    return 2 if settings.top_p < 1 and not settings.top_k else 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_replayed_step_reads_the_weights_of_the_last_update(device, dtype):
    policy, (ids, mask) = make_policy(device, "qwen3", dtype), make_prompts(rows=24)
    engine, settings = GraphEngine(policy, MemoryBudget(slots=8)), SamplingSettings(20)
    for update in range(4):
        found = sample(engine, settings, (ids.to(device), mask.to(device)))
        expected = sample(GraphEngine(policy, MemoryBudget(slots=8)), settings, (ids.to(device), mask.to(device)))
        assert found[0] == expected[0], update
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(1.2)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.inference_mode()
def test_a_decode_step_never_waits_for_the_device(device, settings):
    """Counted on any device; on a GPU, torch watches too."""
    policy, (ids, mask) = make_policy(device, "qwen3", torch.bfloat16), make_prompts(rows=8)
    engine = GraphEngine(policy, MemoryBudget(slots=8))
    slots, _ = engine._prepare(8, 60, settings)
    slots.start(
        torch.arange(8, device=device),
        ids.to(device),
        mask.to(device),
        torch.rand(8, 40, dtype=torch.float64, device=device),
    )
    slots.step(8, 64)
    with SyncCounter() as syncs, waiting_is_an_error(device):
        slots.step(8, 64)
    assert syncs.total == 0, f"\n{syncs}"


@contextmanager
def waiting_is_an_error(device):
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
