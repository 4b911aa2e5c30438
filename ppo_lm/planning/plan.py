"""Plan a run: its memory, its time, and its layout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ppo_lm.base_setup import find_reward_folder
from ppo_lm.base_setup.base_setup import pick_dtype
from ppo_lm.config import PlanConfig
from ppo_lm.planning.efficiency import Efficiency, find_efficiency
from ppo_lm.planning.hardware import Hardware
from ppo_lm.planning.job import Job
from ppo_lm.planning.layout import Layout
from ppo_lm.planning.lengths import Lengths, find_lengths
from ppo_lm.planning.memory import memory_by_part
from ppo_lm.planning.network import blank_network
from ppo_lm.planning.seconds import seconds_by_phase
from ppo_lm.planning.spent import Spent, add_up

USABLE = 0.9  # of a device's memory; the rest is for the driver, and for gaps between allocations


@dataclass(frozen=True)
class Plan:
    """A job in a layout on some hardware."""

    job: Job
    hardware: Hardware
    layout: Layout
    efficiency: Efficiency

    @cached_property
    def memory(self) -> dict[str, int]:
        """Bytes of a trainer's peak memory, by part."""
        return memory_by_part(self.job, self.hardware, self.layout, self.efficiency)

    @cached_property
    def seconds(self) -> dict[str, Spent]:
        """Seconds of a step, by phase and by what they are spent on."""
        return seconds_by_phase(self.job, self.hardware, self.layout, self.efficiency)

    @property
    def peak_memory(self) -> int:
        """Bytes."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether the peak leaves a tenth of the device's memory free."""
        return self.peak_memory <= USABLE * self.hardware.memory

    @property
    def overlaps(self) -> bool:
        """Whether servers sample the next batch while this one is scored and trained on."""
        return self.layout.samplers > 0 and self.job.config.max_staleness > 0

    @property
    def step_seconds(self) -> float:
        sampling, others = self.seconds["sampling"].total, self.seconds_after_sampling
        return max(sampling, others) if self.overlaps else sampling + others

    @property
    def seconds_after_sampling(self) -> float:
        """Of the phases that the trainers spend on a batch once it is sampled."""
        return add_up(spent for phase, spent in self.seconds.items() if phase != "sampling").total

    @property
    def samples_per_second(self) -> float:
        """Responses sampled and trained on."""
        return self.job.config.batch_size / self.step_seconds

    @property
    def is_measured(self) -> bool:
        """Whether the cost model was checked on this kind of device."""
        return self.hardware.device_type == "cpu" and self.hardware.processes == 1 and not self.layout.samplers

    def record(self) -> dict[str, Any]:
        """Everything, for JSON."""
        sizes, config = self.job.sizes, self.job.config
        return {
            "model": {"name": config.model_name, "parameters": sizes.weights, "adapter": self.job.adapter},
            "tokens": {"prompt": self.job.prompt_tokens, "response": self.job.response_tokens},
            "hardware": self.hardware.record(),
            "layout": self.layout._asdict(),
            "memory_bytes": {**self.memory, "peak": self.peak_memory, "device": self.hardware.memory},
            "fits": self.fits,
            "seconds": {phase: spent.record() for phase, spent in self.seconds.items()},
            "step_seconds": self.step_seconds,
            "sampling_overlaps": self.overlaps,
            "run_seconds": self.step_seconds * config.steps,
            "measured": self.is_measured,
            "why_not_accelerated": self.job.why_not_accelerated,
        }


def read_job(config: PlanConfig, hardware: Hardware) -> tuple[Job, Lengths]:
    """What `config` would run on this hardware. Raises `UserError` for a model or prompts that cannot be read."""
    dtype = pick_dtype(config.dtype, torch.device(hardware.device_type))
    network = blank_network(config.model_name, dtype)
    lengths = find_lengths(config, network)
    named = [*config.rewards, *([config.monitor] if config.monitor else [])]
    reward_models = sum(find_reward_folder(reward) is not None for reward in named)
    return Job(config, network, lengths.prompt, lengths.response, reward_models), lengths


def plan_for(job: Job, hardware: Hardware, layout: Layout) -> Plan:
    """A job in this layout, whether it fits or not."""
    return Plan(job, hardware, layout, find_efficiency(hardware.device_type, job.network.dtype.itemsize))
