"""What a sampling engine takes and returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class SamplingSettings:
    """temperature 0 is greedy; top_k 0 and top_p 1 leave the whole vocabulary."""

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


@dataclass(frozen=True)
class Sampled:
    """What was sampled, A ≤ max_new_tokens columns; tokens after a row's first EOS mean nothing."""

    ids: torch.Tensor  # (B, A) int64
    logprobs: torch.Tensor  # (B, A) fp32 nats, under the distribution that was sampled from
    entropies: torch.Tensor  # (B, A) fp32 nats, of the distribution that was sampled from
    support_ids: torch.Tensor | None  # (B, A, K) int64, -1 = none; None when the whole vocabulary was open


class RolloutEngine(Protocol):
    """Anything that samples responses from the current policy."""

    def sample(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        settings: SamplingSettings,
        generator: torch.Generator,
    ) -> Sampled:
        """Sample one response for each left-padded prompt, (B, P) int64 and (B, P) bool."""
        ...
