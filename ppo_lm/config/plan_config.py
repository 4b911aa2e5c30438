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
    """What to plan for: here, this machine, measured in a second; h100, NVIDIA's H100, by its published numbers."""
    devices: PositiveInt | None = None
    """GPUs per host, or processes on a CPU. Default: all GPUs of this machine, otherwise 1."""
    hosts: PositiveInt = 1
    """Number of hosts, with the same number of devices each."""
    prompt_tokens: PositiveInt | None = None
    """Mean length of a prompt, in tokens. Default: that of prompts, if the model's tokenizer is available; otherwise
    max_prompt_tokens, or 256 if that is 0."""
    response_tokens: PositiveInt | None = None
    """Mean length of a response, in tokens. Default: max_new_tokens."""

    def clashes(self) -> list[str]:
        clashes = super().clashes()
        if self.quantise_base != "none":
            clashes.append(
                f"quantise_base is {self.quantise_base}, which the cost model does not know; set it to none, and take "
                "off what docs/quantised.md says that quantising saves"
            )
        if self.response_tokens is not None and self.response_tokens > self.max_new_tokens:
            clashes.append(
                f"response_tokens is {self.response_tokens} but max_new_tokens is {self.max_new_tokens}; a mean cannot "
                "be above the maximum"
            )
        return clashes
