"""Log-probabilities of actions, and entropies, from hidden states: the same function for old, new and reference
policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ppo_lm.ops.exclusion import without
from ppo_lm.ops.exponentials import LOWEST
from ppo_lm.ops.frozen_head import frozen_head_logprobs

CHUNK = 64  # rows of logits in memory at once: about 10 MB with the usual vocabularies, which fits a CPU's cache
GPU_CHUNK = 2048


def action_logprobs(
    hidden: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    action_ids: torch.Tensor,
    action_mask: torch.Tensor,
    *,
    temperature: float = 1.0,
    support_ids: torch.Tensor | None = None,
    excluded_ids: torch.Tensor | None = None,
    chunk: int | None = None,
    entropy: bool = False,
) -> torch.Tensor:
    """log π(a|s) of every action, under the distribution it was sampled from.

    log π(a) = z_a − logsumexp_{j ∈ S} z_j with z = logits / temperature. S is the whole vocabulary, or, where
    top-k/top-p cut it, the support kept while sampling, so that old, new and reference log-probabilities are comparable
    (2403.17031). A support that is nearly the whole vocabulary is given by the tokens that it lacks.

    hidden: (B, A, H), the last hidden state at the position BEFORE each action. head: (n, H) → (n, V) logits.
    action_ids: (B, A) int64. action_mask: (B, A) bool. support_ids: (B, A, K), or else excluded_ids: (B, A, E), int64
    with -1 = none, or None. Returns (B, A) fp32 (fp64 for fp64 logits), 0 where masked; with `entropy`, (2, B, A):
    these, and the entropies −Σ_{j ∈ S} π_j log π_j. Logits are only computed for sampled tokens, `chunk` at a time.
    They are computed once if `head` is a linear layer that is not trained, and for a small support only those on it;
    under autograd, any other head is called once more in the backward pass, so that its logits need not be kept.
    """
    if hidden.shape[:2] != action_ids.shape or action_mask.shape != action_ids.shape:
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, action_ids {tuple(action_ids.shape)}, action_mask "
            f"{tuple(action_mask.shape)}: (B, A) differ"
        )
    if support_ids is not None and excluded_ids is not None:
        raise ValueError("give the support by its tokens or by those that it lacks, not both")
    chunk = chunk or rows_at_once(hidden.device)
    places = action_mask.flatten().nonzero()[:, 0]
    rows, ids = hidden.flatten(0, 1).index_select(0, places), action_ids.flatten()[places]
    supports, excluded = at_places(support_ids, places), at_places(excluded_ids, places)
    recompute = torch.is_grad_enabled() and rows.shape[0] > chunk
    parts = []
    for start in range(0, rows.shape[0], chunk):
        piece = slice(start, start + chunk)
        kept, left_out = None if supports is None else supports[piece], None if excluded is None else excluded[piece]
        arguments = (ids[piece], temperature, kept, left_out, entropy)
        if _is_frozen(head):
            parts.append(frozen_head_logprobs(rows[piece], head.weight, head.bias, *arguments))
        elif recompute:
            parts.append(checkpoint(_chunk_logprobs, rows[piece], head, *arguments, use_reentrant=False))
        else:
            parts.append(_chunk_logprobs(rows[piece], head, *arguments))
    flat = torch.cat(parts, dim=-1) if parts else rows.new_zeros((2, 0) if entropy else 0, dtype=torch.float32)
    found = flat.new_zeros(*flat.shape[:-1], action_mask.numel()).index_copy(-1, places, flat)
    return found.unflatten(-1, action_mask.shape)


def rows_at_once(device: torch.device) -> int:
    """How many rows of logits are in memory at once."""
    return CHUNK if device.type == "cpu" else GPU_CHUNK


def at_places(ids: torch.Tensor | None, places: torch.Tensor) -> torch.Tensor | None:
    """The rows of ids (B, A, K) at `places` (n,) int64 among all B·A: (n, K)."""
    return None if ids is None else ids.flatten(0, 1)[places]


def on_support(logits: torch.Tensor, support_ids: torch.Tensor) -> torch.Tensor:
    """The logits (n, V) of the tokens of a support (n, K) int64 with -1 = none, where they are −inf: (n, K)."""
    return logits.gather(1, support_ids.clamp(min=0)).masked_fill(support_ids < 0, -torch.inf)


def _is_frozen(head: Callable[[torch.Tensor], torch.Tensor]) -> TypeGuard[nn.Linear]:
    if not isinstance(head, nn.Linear) or type(head) is not nn.Linear:  # a subclass may compute something else
        return False
    return not any(parameter.requires_grad for parameter in head.parameters())


def _chunk_logprobs(
    hidden: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    action_ids: torch.Tensor,
    temperature: float,
    support_ids: torch.Tensor | None,
    excluded_ids: torch.Tensor | None,
    entropy: bool,
) -> torch.Tensor:
    logits = head(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits if temperature == 1 else logits / temperature
    chosen = logits.gather(1, action_ids[:, None])[:, 0]
    if support_ids is not None:
        logits = on_support(logits, support_ids)
    if excluded_ids is not None:
        logits = without(logits, excluded_ids)
    normaliser = torch.logsumexp(logits, dim=1)
    if not entropy:
        return chosen - normaliser
    logprobs = (logits - normaliser[:, None]).clamp(min=LOWEST)
    return torch.stack([chosen - normaliser, -(logprobs.exp() * logprobs).sum(dim=1)])


def position_ids(attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions that count real tokens only, observations included, so that padding changes nothing. (B, T) bool →
    (B, T) int64; at padding, those of the last real token before it, or 0."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
