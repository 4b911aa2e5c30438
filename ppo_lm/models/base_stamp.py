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

    @classmethod
    def read(cls, metadata: Mapping[str, str] | None) -> BaseStamp | None:
        """The stamp in the metadata of a file; None if there is none, as in adapters that other programs saved."""
        try:
            found = parse_json((metadata or {})[KEY])
            stamp = cls(str(found["name"]), str(found["dtype"]), [float(number) for number in found["sketch"]])
        except (KeyError, Unreadable, TypeError, ValueError):
            return None
        return stamp if all(map(math.isfinite, stamp.sketch)) else None

    def check(self, base: BaseStamp, what: str) -> None:
        """Raise `ModelError` unless `base` has the weights that `what` was trained on, which this stamp describes."""
        distance = sketch_distance(self.sketch, base.sketch)
        if distance > (SAME_DTYPE if self.dtype == base.dtype else OTHER_DTYPE):
            advice = f"use the model that it was trained on, {self.name!r}, or train it again"
            if self.name == base.name:
                advice = "that model has changed since: train it again, or restore the model as it was"
            raise ModelError(
                f"{what} was trained on other weights than those of model {base.name!r}: they differ by "
                f"{min(distance, 1.0):.2%}; {advice}"
            )
