"""A batch of rows with padding, as one row of real tokens without any, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Packing:
    """Where the N real tokens of a padded batch (B, T) lie, row after row.

    `width` is the longest row's number of real tokens; "the rows" below are (B, width), every row starting with its first real token.
    """

    rows: int
    width: int
    tokens: torch.Tensor  # (N,) int64: places of the real tokens in the flattened (B·T,) batch
    position_ids: torch.Tensor  # (N,) int64: each token's place in its row, padding not counted
    row_of: torch.Tensor  # (N,) int64

    @classmethod
    def of(cls, attention_mask: torch.Tensor) -> Packing:
        """attention_mask: (B, T) bool, at least one True."""
        lengths = attention_mask.sum(dim=1)
        tokens = attention_mask.flatten().nonzero()[:, 0]
        row_of = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths, output_size=len(tokens))
        starts = lengths.cumsum(dim=0) - lengths
        return cls(len(lengths), int(lengths.max()), tokens, torch.arange(len(tokens), device=lengths.device) - starts[row_of], row_of)

    def take(self, batch: torch.Tensor) -> torch.Tensor:
        """The real tokens' part of a padded batch: (B, T) → (N,)."""
        return batch.flatten()[self.tokens]

    @property
    def places(self) -> torch.Tensor:
        """(N,) int64: each token's place in the flattened rows (B·width,)."""
        return self.row_of * self.width + self.position_ids

    @property
    def sources(self) -> torch.Tensor:
        """(B·width,) int64: the token that each place of the rows holds, −1 where there is none."""
        sources = torch.full((self.rows * self.width,), -1, device=self.tokens.device)
        return sources.scatter(0, self.places, torch.arange(len(self.tokens), device=self.tokens.device))

    def spread(self, packed: torch.Tensor, shape: torch.Size, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Undo the packing: (N, H) → (B, T, H) for the batch's `shape` (B, T), 0 where there is padding. With `tokens` (M,), some of `self.tokens`,
        for theirs alone, (M, H)."""
        batch = packed.new_zeros(shape[0] * shape[1], packed.shape[-1])
        return batch.index_copy(0, self.tokens if tokens is None else tokens, packed).view(*shape, -1)
