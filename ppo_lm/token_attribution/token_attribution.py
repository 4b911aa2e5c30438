"""Which token a sequence's score belongs to."""

from __future__ import annotations

import torch


def attribute_scores(scores: torch.Tensor, action_mask: torch.Tensor) -> torch.Tensor:
    """Put the score of each sequence on its last sampled token, EOS if it has one. (B,), (B, A) bool → (B, A), 0
    elsewhere."""
    if scores.ndim != 1 or scores.shape[0] != action_mask.shape[0]:
        raise ValueError(
            f"scores {tuple(scores.shape)} must be ({action_mask.shape[0]},), one per sequence of action_mask "
            f"{tuple(action_mask.shape)}"
        )
    sampled = action_mask.cumsum(dim=1)  # up to and including each token
    is_last = action_mask & (sampled == sampled[:, -1:])
    return torch.where(is_last, scores[:, None], 0.0)
