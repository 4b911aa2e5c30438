"""Sampling on the device against the CPU, and what it costs there."""

import pytest
import torch

from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.rollout import PlainEngine, SamplingSettings, pick_engine
from tests.device.conftest import NETWORKS, make_policy
from tests.rollout.conftest import make_prompts, sample

SETTINGS = [
    SamplingSettings(40),
    SamplingSettings(40, top_k=20, top_p=0.9),
    SamplingSettings(40, top_p=0.8, temperature=1.3),
    SamplingSettings(40, temperature=0),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("slots", [64, 5])
def test_a_seed_samples_what_transformers_samples_on_a_cpu(device, family, slots, settings):
    ids, mask = make_prompts(rows=24)
    torch.backends.cuda.matmul.allow_tf32 = False
    expected = sample(PlainEngine(make_policy(torch.device("cpu"), family)), settings, (ids, mask))
    engine = pick_engine(make_policy(device, family), MemoryBudget(slots=slots))
    assert not isinstance(engine, PlainEngine)
    texts, logprobs, _ = sample(engine, settings, (ids.to(device), mask.to(device)))
    assert texts == expected[0]
    width = min(logprobs.shape[1], expected[1].shape[1])
    torch.testing.assert_close(logprobs[:, :width].cpu(), expected[1][:, :width], rtol=0, atol=1e-4)
