"""The ways to run a network, each tried once, when it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ppo_lm import kernels
from ppo_lm.errors import first_line
from ppo_lm.fast.accelerate import Accelerated, accelerate, is_known
from ppo_lm.fast.attention import NAME
from ppo_lm.fast.reading import CachedRows, GrowingRows, RereadRows, read_packed_rows, read_padded_rows
from ppo_lm.fast.trial import STEPS, Trial, is_refusal, last_columns

OFF = "fast is off"


@dataclass(frozen=True)
class Paths:
    """Three ways to read rows, best first, and transformers' way to add tokens to them, each with the reason (a clause)
    why it cannot be used; None if it can. `why_not_causal`: why none of them can."""

    accelerated: Accelerated | None  # our own passes and decoder
    why_not_accelerated: str | None
    why_not_packed: str | None  # transformers' layers, on rows without their padding
    why_not_padded: str | None  # transformers' layers, as transformers runs them
    why_not_cached: str | None  # transformers' cache of the tokens before
    why_not_causal: str | None
    why_not_kernels: str | None = None  # our own passes run without kernels

    @property
    def notes(self) -> list[str]:
        """What is slower than it could be, and why, one clause each."""
        if self.why_not_accelerated is None:
            padded = [f"rows padded while dropout is on: {self.why_not_packed}"] if self.why_not_packed else []
            return padded + ([f"without our own kernels: {self.why_not_kernels}"] if self.why_not_kernels else [])
        if self.why_not_packed in (None, self.why_not_accelerated):
            rows = "padded" if self.why_not_packed else "without padding"
            return [f"rows {rows}, through transformers' layers: {self.why_not_accelerated}"]
        return [
            f"without our own passes: {self.why_not_accelerated}",
            f"rows padded, through transformers' layers: {self.why_not_packed}",
        ]

    def growing_rows(self, decoder: PreTrainedModel, mask: torch.Tensor) -> GrowingRows:
        """The rows of a batch that is sampled through transformers' layers; `mask` as in `CachedRows`."""
        return CachedRows(decoder, mask) if self.why_not_cached is None else RereadRows(decoder, mask)


def find_paths(network: PreTrainedModel, fast: bool) -> Paths:
    """Try them; only the padded one unless `fast`. A network that supports rows without padding is given our attention,
    which treats other rows as its own does."""
    try:
        trial = Trial(network, adapter=fast and is_known(network))
    except Exception as error:
        if not is_refusal(error):
            raise
        reason = f"transformers' own pass over its first layers failed: {type(error).__name__}: {first_line(error)}"
        return Paths(None, reason, reason, reason, reason, None)
    plain = {
        "why_not_padded": trial.why_not(read_padded_rows),
        "why_not_cached": trial.why_not_decode(_decode_with_cache),
        "why_not_causal": trial.why_not_causal(),
    }
    if not fast:
        return Paths(None, OFF, OFF, **plain)
    own = accelerate(network, trial)
    why_not_packed = trial.why_not(_read_packed_rows)
    if why_not_packed is None:
        network.set_attn_implementation(NAME)
    reason = own if isinstance(own, str) else None
    why_not_kernels = kernels.why_not(network.device, network.dtype)
    return Paths(
        None if isinstance(own, str) else own, reason, why_not_packed, **plain, why_not_kernels=why_not_kernels
    )


def _read_packed_rows(decoder: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    decoder.set_attn_implementation(NAME)
    return read_packed_rows(decoder, ids, mask)


def _decode_with_cache(decoder: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """See `Trial.why_not_decode`. The rows are shifted to the right: they grow there, so all padding is on the left."""
    width = mask.shape[1]
    shift = last_columns(mask)[:, -1:] + 1
    columns = (torch.arange(width, device=mask.device) + shift) % width
    longest = int(mask.sum(dim=1).max())
    ids, mask = ids.gather(1, columns)[:, -longest:], mask.gather(1, columns)[:, -longest:]
    rows = CachedRows(decoder, mask)
    pieces = [ids[:, :-STEPS], *ids[:, -STEPS:].split(1, dim=1)]
    return torch.stack([rows.add(piece) for piece in pieces], dim=1)
