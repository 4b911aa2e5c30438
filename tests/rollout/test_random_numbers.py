"""Random numbers are drawn on the CPU in fp64, whatever the device, and reach it in a dtype that it has."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ppo_lm.models import BaseModel, SFTModel
from ppo_lm.ppo_trainer import SequenceGenerator
from ppo_lm.rollout import (
    PlainEngine,
    SamplingSettings,
    SlotEngine,
    draw_uniforms,
    sample_tokens,
)
from tests.conftest import uniforms
from tests.rollout.conftest import make_policy, make_prompts, sample

pytestmark = pytest.mark.fast

SETTINGS = SamplingSettings(12, temperature=1.1, top_k=40, top_p=0.9)
DEVICES = {"mps:0": torch.float32, "cuda:0": torch.float64}


class WithoutFloat64(TorchDispatchMode):
    """Refuses fp64 tensors on a device, as Apple's mps does."""

    def __init__(self, device):
        super().__init__()
        self.device = torch.device(device)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float64 and out.device == self.device:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return out


@pytest.mark.parametrize("settings", [SETTINGS, SamplingSettings(12)], ids=str)
def test_a_device_without_fp64_can_sample(settings):
    """On torch's device without contents: what is computed there, and in which dtype."""
    device = torch.device("meta")
    logits, uniforms = torch.empty(3, 100, device=device), torch.empty(3, device=device)
    with WithoutFloat64(device):
        token = sample_tokens(logits, settings, uniforms)
    assert {token.ids.device, token.logprobs.device, token.entropies.device} == {device}


@pytest.mark.parametrize("engine", [SlotEngine, PlainEngine])
def test_without_fp64_after_the_draw_the_same_tokens_are_sampled(engine, monkeypatch):
    """A whole rollout: nothing but the draw needs fp64, and numbers rounded to fp32 pick the same tokens here."""
    policy, prompts = make_policy(), make_prompts()
    expected = sample(engine(policy), SETTINGS, prompts)
    rounded = uniforms(prompts[0], SETTINGS).float()
    monkeypatch.setattr("tests.rollout.conftest.uniforms", lambda *_: rounded)
    with WithoutFloat64("cpu"):
        found = sample(engine(policy), SETTINGS, prompts)
    assert (found[0], found[2]) == (expected[0], expected[2])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_gets_the_same_numbers_in_a_dtype_that_it_has(device, monkeypatch):
    copied = []
    with monkeypatch.context() as there:
        there.setattr(torch.Tensor, "to", lambda tensor, *to: copied.append((tensor, *to)))
        draw_uniforms(5, SETTINGS, torch.Generator().manual_seed(3), torch.device(device))
    ((drawn, target, dtype),) = copied
    assert torch.equal(drawn, draw_uniforms(5, SETTINGS, torch.Generator().manual_seed(3), torch.device("cpu")))
    assert (target, dtype) == (torch.device(device), DEVICES[device])


def test_the_stream_of_a_run_on_another_device_goes_on_here(monkeypatch):
    """A generator of the run's own device could neither be made here nor take the state of one from here."""
    policy = make_policy()
    monkeypatch.setattr(BaseModel, "device", torch.device("cuda:0"))
    there = SequenceGenerator(policy, SFTModel(policy.base), SETTINGS, seed=4).random
    torch.rand(7, generator=there)
    monkeypatch.undo()
    here = SequenceGenerator(policy, SFTModel(policy.base), SETTINGS, seed=0).random
    here.set_state(there.get_state())
    assert torch.equal(torch.rand(9, generator=here), torch.rand(9, generator=there))


def test_a_number_rounded_up_to_one_still_picks_a_token():
    logits = torch.tensor([[0.3, 0.7, 0.0]]).log()
    for uniform in (torch.ones(1), torch.ones(1, dtype=torch.float64)):
        assert sample_tokens(logits, SamplingSettings(1), uniform).ids.tolist() == [1]
