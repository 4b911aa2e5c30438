"""What an adapter's file says about the weights it was trained on, so that it is not put onto others."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ppo_lm.errors import ModelError
from ppo_lm.fast.quantisation import NONE
from ppo_lm.fingerprint import sketch_distance, sketch_weights
from ppo_lm.models.adapter_check import WEIGHTS_FILE
from ppo_lm.reading import Unreadable, parse_json

KEY = "ppo_lm_base"  # in the metadata of the safetensors file, which peft ignores
SAME_DTYPE, OTHER_DTYPE = 3e-4, 1e-2  # distances between sketches of one network that was rounded differently
QUANTISED, OTHER_KIND = 0.05, 0.2  # the same if it was quantised by another device or from another dtype, or otherwise


@dataclass(frozen=True)
class BaseStamp:
    """A base model: its name, the dtype that it was loaded in, a sketch of its weights (see `sketch_weights`), and how
    they were quantised (`fast.quantisation`)."""

    name: str
    dtype: str
    sketch: Sequence[float]
    quantisation: str = NONE

    @classmethod
    def of(
        cls, name: str, dtype: torch.dtype, weights: Iterable[tuple[str, torch.Tensor]], quantisation: str
    ) -> BaseStamp:
        """The stamp of a base with these weights."""
        return cls(name, str(dtype).removeprefix("torch."), sketch_weights(weights), quantisation)

    def metadata(self) -> dict[str, str]:
        """For a safetensors file."""
        return {KEY: json.dumps(asdict(self))}  # one entry: safetensors writes several in any order

    @classmethod
    def read(cls, metadata: Mapping[str, str] | None) -> BaseStamp | None:
        """The stamp in the metadata of a file; None if there is none, as in adapters that other programs saved."""
        try:
            found = parse_json((metadata or {})[KEY])
            sketch = [float(number) for number in found["sketch"]]
            stamp = cls(str(found["name"]), str(found["dtype"]), sketch, str(found.get("quantisation", NONE)))
        except (KeyError, Unreadable, TypeError, ValueError):
            return None
        return stamp if all(map(math.isfinite, stamp.sketch)) else None

    def check(self, base: BaseStamp, what: str) -> None:
        """Raise `ModelError` unless `base` has the weights that `what` was trained on, which this stamp describes."""
        distance = sketch_distance(self.sketch, base.sketch)
        if distance > self._largest_distance(base):
            advice = f"use the model that it was trained on, {self.name!r}, or train it again"
            if self.name == base.name:
                advice = "that model has changed since: train it again, or restore the model as it was"
            raise ModelError(
                f"{what} was trained on other weights than those of model {base.name!r}: they differ by "
                f"{min(distance, 1.0):.2%}; {advice}"
            )

    def _largest_distance(self, base: BaseStamp) -> float:
        if self.quantisation != base.quantisation:
            return OTHER_KIND
        if self.quantisation != NONE:
            return QUANTISED
        return SAME_DTYPE if self.dtype == base.dtype else OTHER_DTYPE

    def note(self, base: BaseStamp, what: str) -> str | None:
        """A clause if `what`, which was trained on this base, is put onto one that is quantised otherwise."""
        if self.quantisation == base.quantisation:
            return None
        was, now = (
            f"in {kind}" if kind != NONE else "without quantisation" for kind in (self.quantisation, base.quantisation)
        )
        return f"{what} was trained on this base {was}, and is used on it {now}"


def read_stamp(folder: Path) -> BaseStamp | None:
    """The stamp of the adapter in `folder`; None if it has none, or cannot be read."""
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as weights:
            return BaseStamp.read(weights.metadata())
    except (OSError, SafetensorError):
        return None
