"""Which sampled tokens belong to the response."""

from __future__ import annotations

import torch


def extract_actions(
    sampled_ids: torch.Tensor, eos_token_ids: list[int], pad_token_id: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cut every response at its first EOS, which it keeps (2403.17031: what is scored is the cut response).

    sampled_ids: (B, A) int64. Returns action_ids (B, A) int64, padded after the cut; action_mask (B, A) bool;
    terminated (B,) bool.
    """
    is_eos = torch.isin(sampled_ids, torch.tensor(eos_token_ids, device=sampled_ids.device))
    ends_before = is_eos.long().cumsum(dim=1) - is_eos.long()
    action_mask = ends_before == 0
    return torch.where(action_mask, sampled_ids, pad_token_id), action_mask, is_eos.any(dim=1)
