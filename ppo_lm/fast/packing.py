"""A padded batch as one row of real tokens, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from ppo_lm.ops.products import has_own_products

SMALLEST, STEPS = 64, 8  # see `few_sizes`


@dataclass(frozen=True)
class Packing:
    """Where the N real tokens of a padded batch (B, T) are, row by row. Packed tensors have `size` ≥ N rows; those
    after N are meaningless.

    `width` is the longest row's number of real tokens; "the rows" below are (B, width), every row starting with its
    first real token.
    """

    rows: int
    width: int
    size: int
    tokens: torch.Tensor  # (N,) int64: places of the real tokens in the flattened (B·T,) batch
    position_ids: torch.Tensor  # (N,) int64: each token's place in its row, not counting padding
    row_of: torch.Tensor  # (N,) int64
    ends: torch.Tensor  # (B,) int64: the number of tokens in each row and those before it

    @classmethod
    def of(cls, attention_mask: torch.Tensor, few: bool = False) -> Packing:
        """attention_mask: (B, T) bool, at least one True. `few`: round `size` up by `few_sizes`."""
        lengths = attention_mask.sum(dim=1)
        known = lengths.tolist()  # the only time that a GPU is waited for
        count, device = sum(known), lengths.device
        row_of = torch.arange(len(lengths), device=device).repeat_interleave(lengths, output_size=count)
        ends = lengths.cumsum(dim=0)
        starts = ends - lengths
        return cls(
            len(lengths),
            max(known),
            few_sizes(count) if few else count,
            _where(attention_mask.flatten(), count),
            torch.arange(count, device=device) - starts[row_of],
            row_of,
            ends,
        )

    def take(self, batch: torch.Tensor) -> torch.Tensor:
        """The real tokens of a padded batch, then zeros: (B, T) → (size,)."""
        return self.fill(batch.flatten()[self.tokens])

    def fill(self, packed: torch.Tensor) -> torch.Tensor:
        """(N, ...) → (size, ...), padded with zeros."""
        return pad(packed, (*[0] * (2 * packed.ndim - 1), self.size - len(self.tokens)))

    @property
    def places(self) -> torch.Tensor:
        """(N,) int64: each token's place in the flattened rows (B·width,)."""
        return self.row_of * self.width + self.position_ids

    @property
    def sources(self) -> torch.Tensor:
        """(B·width,) int64: the token at each position of the rows, −1 where there is none."""
        sources = torch.full((self.rows * self.width,), -1, device=self.tokens.device)
        return sources.scatter(0, self.places, torch.arange(len(self.tokens), device=self.tokens.device))

    def spread(self, packed: torch.Tensor, shape: torch.Size, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Undo the packing: (size, H) → (B, T, H) for the batch's `shape` (B, T), 0 where there is padding. With
        `tokens` (M,), a subset of `self.tokens`, from their rows only, (M or more, H)."""
        tokens = self.tokens if tokens is None else tokens
        batch = packed.new_zeros(shape[0] * shape[1], packed.shape[-1])
        return batch.index_copy(0, tokens, packed[: len(tokens)]).view(*shape, -1)


def _where(mask: torch.Tensor, count: int) -> torch.Tensor:
    """The places where mask (n,) is True, which are `count`, (count,) int64."""
    rank = torch.where(mask, mask.cumsum(dim=0) - 1, count)
    places = torch.arange(len(mask), device=mask.device)
    return places.new_empty(count + 1).scatter_(0, rank, places)[:count]


def has_few_sizes(weight: torch.Tensor) -> bool:
    """Whether there should be few sizes where this weight is used."""
    return weight.device.type == "cpu" and not has_own_products(weight)


def few_sizes(count: int) -> int:
    """The smallest number ≥ count that is a multiple of 64 and of an eighth of the power of two below it. On CPUs,
    oneDNN compiles a program for every shape of a matrix product, which takes up to a millisecond: there should be
    few."""
    return round_up(count, max(SMALLEST, (1 << max(count - 1, 0).bit_length()) // (2 * STEPS)))


def round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
