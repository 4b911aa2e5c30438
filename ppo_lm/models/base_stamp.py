"""What an adapter's file says about the weights it was trained on, so that it is not put onto others."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from ppo_lm.errors import ModelError
from ppo_lm.fingerprint import sketch_distance, sketch_weights
from ppo_lm.reading import Unreadable, parse_json

KEY = "ppo_lm_base"  # in the metadata of the safetensors file, which peft ignores
SAME_DTYPE, OTHER_DTYPE = 3e-4, 1e-2  # distances between sketches of one network that was rounded differently


@dataclass(frozen=True)
class BaseStamp:
    """A base model: its name, the dtype that it was loaded in, and a sketch of its weights (see `sketch_weights`)."""

    name: str
    dtype: str
    sketch: Sequence[float]

    @classmethod
    def of(cls, name: str, dtype: torch.dtype, weights: Iterable[tuple[str, torch.Tensor]]) -> BaseStamp:
        """The stamp of a base with these weights."""
        return cls(name, str(dtype).removeprefix("torch."), sketch_weights(weights))

    def metadata(self) -> dict[str, str]:
        """For a safetensors file."""
        return {KEY: json.dumps(asdict(self))}  # one entry: safetensors writes several in any order

    def check(self, metadata: Mapping[str, str] | None, what: str) -> None:
        """Raise `ModelError` if `metadata` names other weights than these. Files without a stamp are taken: only
        adapters that ppo_lm saved have one."""
        found = _read(metadata or {})
        if found is None:
            return
        distance = sketch_distance(self.sketch, found.sketch)
        if distance > (SAME_DTYPE if self.dtype == found.dtype else OTHER_DTYPE):
            raise ModelError(
                f"{what} was trained on other weights than those of model {self.name!r}: they differ by "
                f"{min(distance, 1.0):.1%}; use the model that it was trained on, {found.name!r}, or train it again"
            )


def _read(metadata: Mapping[str, str]) -> BaseStamp | None:
    try:
        found = parse_json(metadata[KEY])
        stamp = BaseStamp(str(found["name"]), str(found["dtype"]), [float(number) for number in found["sketch"]])
    except (KeyError, Unreadable, TypeError, ValueError):
        return None
    return stamp if all(map(math.isfinite, stamp.sketch)) else None
