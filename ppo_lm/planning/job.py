"""What a run computes, whatever the hardware."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import PreTrainedModel

from ppo_lm.advantage import find_estimator
from ppo_lm.config import PPOConfig
from ppo_lm.fast.accelerate import is_known
from ppo_lm.planning.sizes import Sizes, adapted_layers, adapter_weights
from ppo_lm.tracking import Passes
from ppo_lm.types import SAPairs


@dataclass(frozen=True)
class Job:
    """A run: its settings, its network on the meta device, how long prompts and responses are on average, and how many
    reward models there are on the base, the monitor's included."""

    config: PPOConfig
    network: PreTrainedModel
    prompt_tokens: int
    response_tokens: int
    reward_models: int = 0

    @cached_property
    def sizes(self) -> Sizes:
        return Sizes.of(self.network)

    @property
    def row_tokens(self) -> int:
        """Of a prompt and its response."""
        return self.prompt_tokens + self.response_tokens

    @property
    def trains_all_weights(self) -> bool:
        return self.config.lora_r == 0

    @property
    def named_servers(self) -> int:
        """How many servers the run names that sample."""
        return len(self.config.engine_urls or ())

    @cached_property
    def has_value_model(self) -> bool:
        return find_estimator(self.config).needs_values

    @cached_property
    def passes(self) -> Passes:
        return Passes.of(self.config, find_estimator(self.config), self.reward_models)

    @cached_property
    def adapted_layers(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of the layers with adapters; empty if all weights are trained."""
        return [] if self.trains_all_weights else adapted_layers(self.network, self.config.lora_targets)

    @cached_property
    def adapter(self) -> int:
        """The weights of one adapter."""
        return adapter_weights(self.adapted_layers, self.config.lora_r)

    @cached_property
    def trained_weights(self) -> int:
        """Of all models that are trained, without heads of a single output."""
        return self.passes.trained * (self.sizes.weights if self.trains_all_weights else self.adapter)

    @property
    def why_not_accelerated(self) -> str | None:
        """A clause if the run takes more than the cost model says, which is about our own passes."""
        if not self.config.fast:
            return "fast is off"
        return None if is_known(self.network) else f"{self.network.config.model_type} networks run through transformers"

    @property
    def updates(self) -> int:
        """Optimiser steps of each model in a PPO step."""
        return self.config.ppo_epochs * self.config.mini_batches

    def pairs(self, rows: int) -> SAPairs:
        """`rows` sequences of average length, for `tracking.Floor`."""
        ids = torch.zeros(rows, self.row_tokens, dtype=torch.int64)
        actions = ids[:, self.prompt_tokens :]
        yes = torch.ones_like(ids, dtype=torch.bool)
        logprobs, ended = torch.zeros(actions.shape), torch.ones(rows, dtype=torch.bool)
        return SAPairs(ids, yes, actions, yes[:, self.prompt_tokens :], logprobs, ended)
