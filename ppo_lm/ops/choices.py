"""What a model would have said: the most likely tokens at every action, from hidden states."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ppo_lm.ops.exclusion import without
from ppo_lm.ops.logprobs import at_places, on_support, rows_at_once


class Choices(NamedTuple):
    """The K most likely tokens in the state before every action, the most likely first."""

    ids: torch.Tensor  # (B, A, K) int64, -1 where there are fewer, or nothing was sampled
    logprobs: torch.Tensor  # (B, A, K) fp32 nats, 0 where there is no token


def top_choices(
    hidden: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    action_mask: torch.Tensor,
    count: int,
    *,
    temperature: float = 1.0,
    support_ids: torch.Tensor | None = None,
    excluded_ids: torch.Tensor | None = None,
) -> Choices:
    """The `count` most likely tokens under the distribution that each action was sampled from: arguments and
    distribution are those of `action_logprobs`, so both give a token the same log-probability."""
    places = action_mask.flatten().nonzero()[:, 0]
    rows = hidden.flatten(0, 1).index_select(0, places)
    supports, excluded = at_places(support_ids, places), at_places(excluded_ids, places)
    ids = action_mask.new_full((action_mask.numel(), count), -1, dtype=torch.int64)
    logprobs = torch.zeros(ids.shape, dtype=torch.float32, device=ids.device)
    chunk = rows_at_once(hidden.device)
    for start in range(0, len(rows), chunk):
        piece = slice(start, start + chunk)
        kept, left_out = None if supports is None else supports[piece], None if excluded is None else excluded[piece]
        found = _most_likely(head(rows[piece]), count, temperature, kept, left_out)
        width = found.ids.shape[1]
        ids[places[piece], :width], logprobs[places[piece], :width] = found
    return Choices(ids.unflatten(0, action_mask.shape), logprobs.unflatten(0, action_mask.shape))


def _most_likely(
    logits: torch.Tensor,
    count: int,
    temperature: float,
    support_ids: torch.Tensor | None,
    excluded_ids: torch.Tensor | None,
) -> Choices:
    """(n, V) → (n, at most `count`) each."""
    logits = logits.float() / temperature
    if support_ids is not None:
        logits = on_support(logits, support_ids)
    if excluded_ids is not None:
        logits = without(logits, excluded_ids)
    logprobs, columns = logits.log_softmax(dim=1).topk(min(count, logits.shape[1]), dim=1)
    ids = columns if support_ids is None else support_ids.gather(1, columns)
    return Choices(ids, logprobs.masked_fill(ids < 0, 0.0))
