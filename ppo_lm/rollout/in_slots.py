"""What the engines share that sample in a fixed number of slots: a response that ends leaves its slot to the next
prompt (continuous batching)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch

from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.models import PolicyModel
from ppo_lm.rollout.engine import RolloutEngine, Sampled, SamplingSettings


class Responses(Protocol):
    """What has been sampled, on tensors created in inference mode, which autograd cannot use."""

    def sampled(self) -> Sampled:
        """Copies. Called outside inference mode."""
        ...


class InSlots(RolloutEngine):
    """Samples in process from a `PolicyModel` whose network has one of our decoders (`fast.paths`). Prompts are read
    without padding."""

    def __init__(self, policy: PolicyModel, budget: MemoryBudget | None = None):
        """`budget`: how many responses are in progress at once, and how many prompt tokens are read at once (at least
        one prompt)."""
        self.policy, self.budget = policy, budget or MemoryBudget()

    def sample(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        settings: SamplingSettings,
        uniforms: torch.Tensor,
    ) -> Sampled:
        """See `RolloutEngine.sample`. At most `budget.slots` responses are in progress at once."""
        with torch.inference_mode():
            responses = self.budget.fit_slots(
                len(prompt_ids), lambda slots: self._sample(prompt_ids, prompt_mask, settings, uniforms, slots)
            )
        return responses.sampled()

    @abstractmethod
    def _sample(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        settings: SamplingSettings,
        uniforms: torch.Tensor,
        slots: int,
    ) -> Responses:
        """Sample with at most `slots` slots; in inference mode."""


class Waiting:
    """The rows whose responses have not begun; the longest prompt is the next."""

    def __init__(self, lengths: Sequence[int]):
        """`lengths`: the number of tokens in each row's prompt."""
        self._lengths, self._rows = lengths, sorted(range(len(lengths)), key=lengths.__getitem__)

    def __len__(self) -> int:
        return len(self._rows)

    def should_start(self, free: int, slots: int) -> bool:
        """Whether enough of the slots are free, an eighth, for the next prompts to be read."""
        return bool(self) and free >= (slots + 7) // 8

    def take(self, most: int, tokens: int) -> list[int]:
        """Remove the next rows: at most `most`, with at most `tokens` tokens in total, but at least one."""
        taken = [self._rows.pop()]
        while self and len(taken) < most and (tokens := tokens - self._lengths[taken[-1]]) >= self._next_length():
            taken.append(self._rows.pop())
        return taken

    def _next_length(self) -> int:
        return self._lengths[self._rows[-1]]
