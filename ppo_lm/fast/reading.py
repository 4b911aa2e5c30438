"""From token ids to last hidden states through transformers' layers: with padding, as transformers does, or without."""

from __future__ import annotations

import torch
from torch import nn

from ppo_lm.fast.attention import PackedBatch
from ppo_lm.fast.packing import Packing
from ppo_lm.ops import position_ids

NO_MASK = torch.ones(1, 1, 1, 1, dtype=torch.bool)  # four dimensions, so that transformers does not build its own


def read_padded_rows(decoder: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """(B, T) int64, (B, T) bool → (B, T, H); values at padding are meaningless."""
    output = decoder(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids(attention_mask), use_cache=False
    )
    return output.last_hidden_state


def read_packed_rows(decoder: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """As `read_padded_rows`, but all real tokens go through the network as one row, and `attention.attention`, which
    the network must use, keeps them apart; 0 at padding."""
    packing = Packing.of(attention_mask)
    output = decoder(
        input_ids=packing.take(input_ids)[None],
        attention_mask=NO_MASK.to(input_ids.device),
        position_ids=packing.position_ids[None],
        use_cache=False,
        packed=PackedBatch(packing),
    )
    return packing.spread(output.last_hidden_state[0], input_ids.shape)
