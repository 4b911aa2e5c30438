"""Which token a sequence's score belongs to."""

from __future__ import annotations

import torch


def attribute_scores(scores: torch.Tensor, action_mask: torch.Tensor) -> torch.Tensor:
    """Put the score of each sequence on its last action, EOS if it has one. (B,), (B, A) bool → (B, A), 0 elsewhere."""
    if scores.ndim != 1 or scores.shape[0] != action_mask.shape[0]:
        raise ValueError(
            f"scores {tuple(scores.shape)} must be ({action_mask.shape[0]},), one a sequence of action_mask "
            f"{tuple(action_mask.shape)}"
        )
    columns = torch.arange(action_mask.shape[1], device=action_mask.device)
    is_last = action_mask & (columns == action_mask.sum(dim=1, keepdim=True) - 1)
    return torch.where(is_last, scores[:, None], 0.0)
