"""From logits to one sampled token, its log-probability, the distribution's entropy, and the support it was sampled
from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ppo_lm.ops.exclusion import without
from ppo_lm.ops.exponentials import BLOCK, sums_of_blocks
from ppo_lm.rollout.engine import SamplingSettings


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


def seed_of(uniforms: torch.Tensor) -> int:
    """A seed below 2^53 for an engine that draws its own random numbers: the first of `uniforms`, of any shape."""
    return int(uniforms.flatten()[0].double() * 2**53)


def uniform_dtype(device: torch.device) -> torch.dtype:
    """fp64, or fp32 on Apple's mps, which has no fp64."""
    return torch.float32 if device.type == "mps" else torch.float64


def find_excluded(
    settings: SamplingSettings, end_ids: torch.Tensor, places: torch.Tensor | Sequence[int]
) -> torch.Tensor | None:
    """The tokens that cannot be sampled at `places` (n,) int64 of responses, counted from 0: before `min_new_tokens`,
    the end tokens (E,) int64. Returns (n, E) int64, -1 = none; None if `min_new_tokens` is 0."""
    if not settings.min_new_tokens:
        return None
    places = torch.as_tensor(places, device=end_ids.device)
    return torch.where(places[:, None] < settings.min_new_tokens, end_ids, -1)


class Token(NamedTuple):
    """One token per row."""

    ids: torch.Tensor  # (B,) int64
    logprobs: torch.Tensor  # (B,) fp32 nats, on the support
    entropies: torch.Tensor  # (B,) fp32 nats, of the distribution on the support
    support_ids: torch.Tensor | None  # (B, K) int64, -1 = none; None when it is the whole vocabulary


def sample_tokens(
    logits: torch.Tensor,
    settings: SamplingSettings,
    uniforms: torch.Tensor,
    excluded_ids: torch.Tensor | None = None,
) -> Token:
    """Temperature, then top-k, then top-p on what top-k left ("The curious case of neural text degeneration",
    1904.09751); all of it without the excluded tokens.

    logits: (B, V). uniforms: (B,) fp64, or fp32 where there is no fp64, in [0, 1]; each picks the token whose interval
    of the cumulative distribution contains it. excluded_ids: (B, E) int64 with -1 = none, or None (`find_excluded`);
    they are not in the reported support, and with the whole vocabulary, none is reported. Greedy (temperature 0) has
    log-probability and entropy 0.
    """
    if excluded_ids is not None:
        logits = without(logits, excluded_ids)
    if settings.temperature == 0:
        certain = logits.new_zeros(logits.shape[0], dtype=torch.float32)
        return Token(logits.argmax(dim=1), certain, certain, None)
    vocabulary = logits.shape[1]
    if not settings.truncates(vocabulary):
        return Token(*_draw(logits, settings.temperature, uniforms), None)
    logits = logits.float() / settings.temperature
    logits, ids = logits.topk(min(settings.top_k or vocabulary, vocabulary), dim=1)
    if excluded_ids is not None:  # where top-k asks for more tokens than there are left
        ids = ids.masked_fill(logits == -torch.inf, -1)
    if settings.top_p < 1:
        probabilities = logits.softmax(dim=1)
        outside = probabilities.cumsum(dim=1) - probabilities >= settings.top_p
        logits, ids = logits.masked_fill(outside, -torch.inf), ids.masked_fill(outside, -1)
    choice, logprob, entropy = _draw(logits, 1.0, uniforms)
    return Token(ids.gather(1, choice[:, None])[:, 0], logprob, entropy, ids)


def _draw(
    logits: torch.Tensor, temperature: float, uniforms: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(columns, their log-probabilities, the distributions' entropies), (B,) each: the inverse of the cumulative
    distribution at `uniforms`, first among blocks of columns, then in one of them."""
    highest, total, mean, sums = sums_of_blocks(logits, temperature)
    cumulative = sums.cumsum(dim=1)
    threshold = (uniforms[:, None] * cumulative[:, -1:].to(uniforms.dtype)).to(cumulative.dtype)
    block = _search(cumulative, threshold)
    before = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp_(min=0)), 0.0)
    columns = block * BLOCK + torch.arange(BLOCK, device=block.device)
    last = logits.shape[1] - 1
    below = logits.gather(1, columns.clamp(max=last)).float().div_(temperature).sub_(highest)
    inside = below.exp().masked_fill_(columns > last, 0.0).cumsum(dim=1)
    place = _search(inside, threshold - before)
    chosen = below.gather(1, place) - total.log()
    return columns.gather(1, place).clamp_(max=last)[:, 0], chosen[:, 0], (total.log() - mean)[:, 0]


def _search(cumulative: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """The first column above the threshold, (B, 1) int64; one whose own weight is not 0."""
    total = cumulative[:, -1:]
    # A threshold that was rounded up to the total would lie after every column.
    threshold = torch.minimum(threshold, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cumulative, threshold, right=True)
    return found.clamp_(max=cumulative.shape[1] - 1)  # NaN lies after every column
