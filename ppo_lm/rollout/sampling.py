"""From logits to one sampled token, its log-probability, the distribution's entropy, and the support it was sampled
from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import pad

from ppo_lm.ops.exponentials import LOWEST
from ppo_lm.rollout.engine import SamplingSettings

BLOCK = 128  # columns; cumulative sums of blocks, then of one block's columns, are faster than those of all columns


def draw_uniforms(
    rows: int, settings: SamplingSettings, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    """The randomness of a rollout: one number in [0, 1) per response and token, (rows, max_new_tokens) on `device`. A
    response depends only on its own numbers, not on the responses sampled with it.

    They are drawn in fp64 on the CPU, where `generator` must be, and copied once. A seed gives the same numbers on
    every device; on Apple's mps, which has no fp64, they are rounded to fp32.
    """
    uniforms = torch.rand(rows, settings.max_new_tokens, generator=generator, dtype=torch.float64)
    return uniforms.to(device, uniform_dtype(device))


def uniform_dtype(device: torch.device) -> torch.dtype:
    """fp64, or fp32 on Apple's mps, which has no fp64."""
    return torch.float32 if device.type == "mps" else torch.float64


class Token(NamedTuple):
    """One token per row."""

    ids: torch.Tensor  # (B,) int64
    logprobs: torch.Tensor  # (B,) fp32 nats, on the support
    entropies: torch.Tensor  # (B,) fp32 nats, of the distribution on the support
    support_ids: torch.Tensor | None  # (B, K) int64, -1 = none; None when it is the whole vocabulary


def sample_tokens(logits: torch.Tensor, settings: SamplingSettings, uniforms: torch.Tensor) -> Token:
    """Temperature, then top-k, then top-p on what top-k left ("The curious case of neural text degeneration",
    1904.09751).

    logits: (B, V). uniforms: (B,) fp64, or fp32 where there is no fp64, in [0, 1]; each picks the token whose interval
    of the cumulative distribution contains it. Greedy (temperature 0) has log-probability and entropy 0.
    """
    logits = logits.float()
    if settings.temperature == 0:
        certain = logits.new_zeros(logits.shape[0])
        return Token(logits.argmax(dim=1), certain, certain, None)
    logits = logits / settings.temperature
    vocabulary = logits.shape[1]
    if not settings.truncates(vocabulary):
        return Token(*_draw(logits, uniforms), None)
    logits, ids = logits.topk(min(settings.top_k or vocabulary, vocabulary), dim=1)
    if settings.top_p < 1:
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
    blocks = pad(weights, (0, -weights.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))  # no copy if BLOCK divides them
    sums = blocks.sum(dim=2)
    cumulative = sums.cumsum(dim=1)
    total = cumulative[:, -1:]
    threshold = (uniforms[:, None] * total.to(uniforms.dtype)).to(total.dtype)
    block = _search(cumulative, threshold)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0].cumsum(dim=1)
    before = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp_(min=0)), 0.0)
    choice = block * BLOCK + _search(inside, threshold - before)
    choice = choice.clamp_(max=logits.shape[1] - 1)
    entropy = total.log() - weights.mul_(below).sum(dim=1, keepdim=True) / total
    return choice[:, 0], (below.gather(1, choice) - total.log())[:, 0], entropy[:, 0]


def _search(cumulative: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """The first column above the threshold, (B, 1) int64; one whose own weight is not 0."""
    total = cumulative[:, -1:]
    # A threshold that was rounded up to the total would lie after every column.
    threshold = torch.minimum(threshold, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cumulative, threshold, right=True)
    return found.clamp_(max=cumulative.shape[1] - 1)  # NaN lies after every column
