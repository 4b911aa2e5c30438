"""What a sampling engine takes and returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from ppo_lm.models import PolicyModel


@dataclass(frozen=True)
class SamplingSettings:
    """temperature 0 is greedy; top_k 0 and top_p 1 leave the whole vocabulary."""

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def truncates(self, vocabulary: int) -> bool:
        """Whether some of the `vocabulary` tokens are never sampled; greedy decoding does not sample."""
        return self.temperature > 0 and (0 < self.top_k < vocabulary or self.top_p < 1)


@dataclass(frozen=True)
class Sampled:
    """What was sampled, A ≤ max_new_tokens columns; tokens after a row's first EOS are ignored.

    An engine that does not know the entropies omits them, and a scoring pass computes them. One that does not know the
    support can only sample from the whole vocabulary.
    """

    ids: torch.Tensor  # (B, A) int64
    logprobs: torch.Tensor  # (B, A) fp32 nats, under the distribution that was sampled from
    entropies: torch.Tensor | None = None  # (B, A) fp32 nats, of the distribution that was sampled from
    support_ids: torch.Tensor | None = None  # (B, A, K) int64, -1 = none; None: every token could be sampled


class RolloutEngine(Protocol):
    """Anything that samples responses from the current policy. A class that inherits from this needs only `sample`."""

    def sample(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        settings: SamplingSettings,
        generator: torch.Generator,
    ) -> Sampled:
        """Sample one response for each left-padded prompt, (B, P) int64 and (B, P) bool. All randomness comes from
        `generator`, which is on the CPU, so that a seed gives the same numbers on every device."""
        ...

    def update_weights(self, policy: PolicyModel) -> None:
        """Use the current weights of `policy`. Called before the first `sample`, and again whenever the weights may
        have changed. An engine with its own copy of the weights, perhaps in another process, updates it here; one that
        reads the policy's weights in every `sample` need not override this."""

    @property
    def description(self) -> str:
        """How it samples, in a few words for the screen."""
        return f"sampled by {type(self).__name__}"
