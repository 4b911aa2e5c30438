"""Jobs and hardware that tests of plans share."""

from collections.abc import Callable

import pytest

from ppo_lm.config import PlanConfig
from ppo_lm.planning import Hardware, Job, find_hardware, read_job
from ppo_lm.tracking.floor import Machine


@pytest.fixture
def cpu() -> Hardware:
    """One process, at rates that make a second of a FLOP and of a byte."""
    return Hardware("a CPU", "cpu", 1, 1, Machine(1.0, 1.0), 2**34, 2**29, None, None, "made up")


@pytest.fixture
def make_job() -> Callable[..., Job]:
    """A job on H100s, by default LoRA on Qwen3-0.6B."""

    def make(**settings) -> Job:
        config = PlanConfig(**{"model_name": "Qwen/Qwen3-0.6B", "hardware": "h100", "prompt_tokens": 200, **settings})
        return read_job(config, find_hardware(config))[0]

    return make


@pytest.fixture
def h100s() -> Callable[..., Hardware]:
    """H100s: `devices` on each of `hosts`."""

    def make(devices: int = 1, hosts: int = 1) -> Hardware:
        return find_hardware(PlanConfig(hardware="h100", devices=devices, hosts=hosts))

    return make
