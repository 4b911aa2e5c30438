"""From logits to one sampled token, its log-probability, and the support it was sampled from."""

from __future__ import annotations

import torch

from ppo_lm.rollout.engine import SamplingSettings


def sample_tokens(
    logits: torch.Tensor, settings: SamplingSettings, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Temperature, then top-k, then top-p on what top-k left ("The curious case of neural text degeneration", 1904.09751).

    logits: (B, V). Returns tokens (B,) int64, log-probabilities (B,) fp32 on the support, and the support (B, K) int64 with
    -1 = none, or None when it is the whole vocabulary. Greedy (temperature 0) has log-probability 0.
    """
    logits = logits.float()
    if settings.temperature == 0:
        return logits.argmax(dim=1), logits.new_zeros(logits.shape[0]), None
    logits = logits / settings.temperature
    cuts_k, cuts_p = 0 < settings.top_k < logits.shape[1], settings.top_p < 1
    if not (cuts_k or cuts_p):
        logprobs = logits.log_softmax(dim=1)
        choice = _draw(logprobs, generator)
        return choice, logprobs.gather(1, choice[:, None])[:, 0], None
    logits, ids = logits.topk(settings.top_k if cuts_k else logits.shape[1], dim=1)
    if cuts_p:
        probabilities = logits.softmax(dim=1)
        outside = probabilities.cumsum(dim=1) - probabilities >= settings.top_p
        widest = int((~outside).sum(dim=1).max())
        logits = logits.masked_fill(outside, -torch.inf)[:, :widest]
        ids = ids.masked_fill(outside, -1)[:, :widest]
    logprobs = logits.log_softmax(dim=1)
    choice = _draw(logprobs, generator)[:, None]
    return ids.gather(1, choice)[:, 0], logprobs.gather(1, choice)[:, 0], ids


def _draw(logprobs: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Sample a column of each row: argmax p / Exp(1), an exponential race."""
    return (logprobs - torch.empty_like(logprobs).exponential_(generator=generator).log()).argmax(dim=1)
