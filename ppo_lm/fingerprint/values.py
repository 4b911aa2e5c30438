"""Hashes of plain values and of weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import torch

PIECE = 2**22  # weights per sum: the memory that it takes stays small
FACTOR = 0x9E3779B1  # odd, so that the sums of different orders differ
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per weight


def fingerprint(value: object) -> str:
    """A hash of a value: anything that JSON can hold, and objects that say themselves what they hold."""
    return hashlib.sha256(json.dumps(value, default=_plain).encode()).hexdigest()


def fingerprint_weights(weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    """A hash of named tensors: their shapes, dtypes and all their bits, the same on every device.

    The sums of the bits, plain and weighted by place, are computed where the tensors are, at about the speed of its
    memory; only they are hashed. That finds every change that is not made to escape it.
    """
    digest = hashlib.sha256()
    for name, weight in weights:
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} {_sums(weight.detach())}".encode())
    return digest.hexdigest()


def _sums(weight: torch.Tensor) -> list[list[int]]:
    bits = weight.contiguous().flatten().view(INTEGERS[weight.element_size()])
    factors = torch.arange(1, min(len(bits), PIECE) + 1, device=bits.device).mul_(FACTOR)
    sums = []
    for piece in bits.split(PIECE):
        wide = piece.long()  # overflow wraps around
        sums.append(torch.stack([wide.sum(), (wide * factors[: len(wide)]).sum()]))
    return torch.stack(sums).tolist() if sums else []


def _plain(value: object) -> object:
    for convert in ("tolist", "isoformat"):  # arrays, dates
        if hasattr(value, convert):
            return getattr(value, convert)()
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return str(value) if type(value).__str__ is not object.__str__ else type(value).__qualname__
