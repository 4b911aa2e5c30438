"""From logits to one sampled token, its log-probability, the distribution's entropy, and the support it was sampled
from."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ppo_lm.ops.logprobs import LOWEST
from ppo_lm.rollout.engine import SamplingSettings


def draw_uniforms(rows: int, settings: SamplingSettings, generator: torch.Generator) -> torch.Tensor:
    """The chance in a rollout: one number in [0, 1) a response and token, (rows, max_new_tokens) fp64. What a response
    becomes depends on its own numbers alone, not on the responses sampled beside it."""
    return torch.rand(rows, settings.max_new_tokens, generator=generator, device=generator.device, dtype=torch.float64)


class Token(NamedTuple):
    """One token a row."""

    ids: torch.Tensor  # (B,) int64
    logprobs: torch.Tensor  # (B,) fp32 nats, on the support
    entropies: torch.Tensor  # (B,) fp32 nats, of the distribution on the support
    support_ids: torch.Tensor | None  # (B, K) int64, -1 = none; None when it is the whole vocabulary


def sample_tokens(logits: torch.Tensor, settings: SamplingSettings, uniforms: torch.Tensor) -> Token:
    """Temperature, then top-k, then top-p on what top-k left ("The curious case of neural text degeneration",
    1904.09751).

    logits: (B, V). uniforms: (B,) fp64 in [0, 1); the token is the one in whose stretch of the cumulative distribution
    the number falls. Greedy (temperature 0) has log-probability and entropy 0.
    """
    logits = logits.float()
    if settings.temperature == 0:
        certain = logits.new_zeros(logits.shape[0])
        return Token(logits.argmax(dim=1), certain, certain, None)
    logits = logits / settings.temperature
    cuts_k, cuts_p = 0 < settings.top_k < logits.shape[1], settings.top_p < 1
    if not (cuts_k or cuts_p):
        return Token(*_draw(logits, uniforms), None)
    logits, ids = logits.topk(settings.top_k if cuts_k else logits.shape[1], dim=1)
    if cuts_p:
        probabilities = logits.softmax(dim=1)
        outside = probabilities.cumsum(dim=1) - probabilities >= settings.top_p
        logits, ids = logits.masked_fill(outside, -torch.inf), ids.masked_fill(outside, -1)
    choice, logprob, entropy = _draw(logits, uniforms)
    return Token(ids.gather(1, choice[:, None])[:, 0], logprob, entropy, ids)


def _draw(logits: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(columns, their log-probabilities, the distributions' entropies), (B,) each: the inverse of the cumulative
    distribution at `uniforms`."""
    below = (logits - logits.amax(dim=1, keepdim=True)).clamp_(min=LOWEST)
    weights = below.exp()
    cumulative = weights.cumsum(dim=1)
    total = cumulative[:, -1:]
    threshold = (uniforms[:, None] * total.double()).to(cumulative.dtype)
    threshold = torch.minimum(
        threshold, torch.nextafter(total, torch.zeros_like(total))
    )  # rounding up to the total would leave no column
    choice = torch.searchsorted(cumulative, threshold, right=True).clamp_(
        max=logits.shape[1] - 1
    )  # NaN lies after all columns
    entropy = total.log() - weights.mul_(below).sum(dim=1, keepdim=True) / total
    return choice[:, 0], (below.gather(1, choice) - total.log())[:, 0], entropy[:, 0]
