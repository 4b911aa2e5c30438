"""What a sampling engine takes and returns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ppo_lm.distributed import Share, processes
from ppo_lm.models import PolicyModel


class EndConfig(Protocol):
    """When a response ends: the settings that every configuration of a command that samples has."""

    min_new_tokens: int
    stop_strings: list[str] | None


@dataclass(frozen=True)
class SamplingSettings:
    """temperature 0 is greedy; top_k 0 and top_p 1 leave the whole vocabulary. A response ends with EOS, or with the
    token that completes one of the `stop_strings` in its text, and has at least `min_new_tokens` tokens besides EOS."""

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_new_tokens: int = 0
    stop_strings: tuple[str, ...] = ()

    def ending_as(self, config: EndConfig) -> SamplingSettings:
        """The same, but responses end as `config` says."""
        return replace(self, min_new_tokens=config.min_new_tokens, stop_strings=tuple(config.stop_strings or ()))

    def truncates(self, vocabulary: int) -> bool:
        """Whether some of the `vocabulary` tokens are never sampled; greedy decoding does not sample."""
        return self.temperature > 0 and (0 < self.top_k < vocabulary or self.top_p < 1)


@dataclass(frozen=True)
class Sampled:
    """What was sampled, A ≤ max_new_tokens columns; tokens after a row's first EOS or stop string are ignored.

    An engine that does not know the entropies omits them, and a scoring pass computes them. One that does not know the
    support can only sample from the whole vocabulary.
    """

    ids: torch.Tensor  # (B, A) int64
    logprobs: torch.Tensor  # (B, A) fp32 nats, under the distribution that was sampled from
    entropies: torch.Tensor | None = None  # (B, A) fp32 nats, of the distribution that was sampled from
    support_ids: torch.Tensor | None = None  # (B, A, K) int64, -1 = none; None: every token could be sampled

    def of_all(self, share: Share) -> Sampled:
        """What all processes sampled, if this is what was sampled for this process's share of the rows."""
        gather = processes().gather_rows
        return Sampled(
            gather(share, self.ids),
            gather(share, self.logprobs),
            None if self.entropies is None else gather(share, self.entropies),
            None if self.support_ids is None else gather(share, self.support_ids, fill=-1),
        )


class RolloutEngine(Protocol):
    """Anything that samples responses from the current policy. A class that inherits from this needs only `sample`."""

    def sample(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        settings: SamplingSettings,
        uniforms: torch.Tensor,
    ) -> Sampled:
        """Sample one response for each left-padded prompt, (B, P) int64 and (B, P) bool. All randomness comes from
        `uniforms`, (B, max_new_tokens) in [0, 1), fp64 where the device has it (`draw_uniforms`): a response depends
        on its own row of them only, whatever else is sampled with it. An engine that needs a seed can take it from
        there (`seed_of`).

        `settings.min_new_tokens` has to be obeyed: the first tokens come from the distribution without the end tokens,
        which are left out before top-k and top-p. Stop strings may be ignored: responses are cut at them afterwards
        (`read_completions`), so an engine that stops there only saves time.
        """
        ...

    is_remote: bool = False
    """Whether `sample` computes nothing here: it may then be called in a thread while the policy is being trained."""

    def snapshot(self) -> RolloutEngine:
        """The engine as it is now, for a thread: it goes on sampling with the present weights, whatever
        `update_weights` brings. Only asked of an engine that `is_remote`."""
        return self

    def update_weights(self, policy: PolicyModel) -> None:
        """Use the current weights of `policy`. Called before the first `sample`, and again whenever the weights may
        have changed. An engine with its own copy of the weights, perhaps in another process, updates it here; one that
        reads the policy's weights in every `sample` need not override this."""

    @property
    def description(self) -> str:
        """How it samples, in a few words for the screen."""
        return f"sampled by {type(self).__name__}"
