"""The settings of `ppo-lm plan`. Does not import torch."""

from __future__ import annotations

import dataclasses
from typing import Literal

from ppo_lm.config.field_types import PositiveInt, Topic
from ppo_lm.config.ppo_config import PPOConfig
from ppo_lm.config.settings import checked


@checked
@dataclasses.dataclass(kw_only=True)
class PlanConfig(PPOConfig):
    """Every setting of the run that is planned, the hardware, and the lengths that the data would show."""

    EVERYDAY = (
        "model_name",
        "hardware",
        "devices",
        "hosts",
        "prompt_tokens",
        "response_tokens",
        "prompts",
        "lora_r",
        "batch_size",
        "max_new_tokens",
    )

    HARDWARE = Topic("Hardware")

    hardware: Literal["here", "h100"] = "here"
    """What to plan for: here measures this machine for a second; h100 takes the published numbers of NVIDIA's H100."""
    devices: PositiveInt | None = None
    """GPUs of each host; on a CPU, processes. Default: all GPUs of this machine; otherwise 1."""
    hosts: PositiveInt = 1
    """Machines, with so many devices each."""
    prompt_tokens: PositiveInt | None = None
    """Tokens of a prompt, on average. Default: measured if prompts and the model's tokenizer are at hand, otherwise
    max_prompt_tokens, or 256 if that is 0."""
    response_tokens: PositiveInt | None = None
    """Tokens of a response, on average. Default: max_new_tokens."""

    def clashes(self) -> list[str]:
        clashes = super().clashes()
        if self.response_tokens is not None and self.response_tokens > self.max_new_tokens:
            clashes.append(
                f"response_tokens is {self.response_tokens} but max_new_tokens is {self.max_new_tokens}; a mean cannot "
                "be above the maximum"
            )
        return clashes
