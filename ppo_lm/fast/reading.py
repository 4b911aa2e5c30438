"""From token ids to last hidden states through transformers' layers: whole rows, with padding or without, and rows that
grow token by token."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn
from transformers import DynamicCache

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


class GrowingRows(Protocol):
    """Left-padded rows to which tokens are added."""

    def add(self, ids: torch.Tensor) -> torch.Tensor:
        """Add tokens to every row, (B, N) int64. Returns the hidden state of the last one, (B, H)."""
        ...


class CachedRows(GrowingRows):
    """Keeps what later tokens need in transformers' cache."""

    def __init__(self, decoder: Any, mask: torch.Tensor):
        """`mask`: (B, T) bool, False at the padding on the left, True for all tokens to come."""
        self._decoder, self._mask, self._positions = decoder, mask, position_ids(mask)
        self._cache, self._end = DynamicCache(config=decoder.config), 0

    def add(self, ids: torch.Tensor) -> torch.Tensor:
        """See `GrowingRows.add`."""
        start, self._end = self._end, self._end + ids.shape[1]
        output = self._decoder(
            input_ids=ids,
            attention_mask=self._mask[:, : self._end],
            position_ids=self._positions[:, start : self._end],
            past_key_values=self._cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, -1]


class RereadRows(GrowingRows):
    """Reads all tokens again for every new one: for a network whose cache gives other results."""

    def __init__(self, decoder: Any, mask: torch.Tensor):
        """As `CachedRows`."""
        self._decoder, self._mask, self._ids = decoder, mask, mask.new_empty(len(mask), 0, dtype=torch.int64)

    def add(self, ids: torch.Tensor) -> torch.Tensor:
        """See `GrowingRows.add`."""
        self._ids = torch.cat([self._ids, ids], dim=1)
        return read_padded_rows(self._decoder, self._ids, self._mask[:, : self._ids.shape[1]])[:, -1]
