"""What a reward returns: scores with their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Scores:
    """The scores of B responses. All tensors are (B,) and floating-point; NaN is "no opinion".

    `total` is what is trained on. `plain` is the total before any normalisation over the batch, so that it can be
    compared across batches. `parts` are the components of the total, by name, for logging.

    Example::

        Scores.of([0.7, None], {"facts": [0.9, None], "style": [-0.2, None]})
    """

    total: torch.Tensor
    plain: torch.Tensor
    parts: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        total: torch.Tensor | Sequence[float | None],
        parts: Mapping[str, torch.Tensor | Sequence[float | None]] | None = None,
    ) -> Scores:
        """Scores without normalisation, from tensors or from lists, which become fp64 on the CPU."""
        scores = _as_tensor(total)
        return cls(scores, scores, {name: _as_tensor(values) for name, values in (parts or {}).items()})

    @property
    def opinions(self) -> list[float | None]:
        """`total` as a list, with None for no opinion."""
        return as_list(self.total)


def as_list(scores: torch.Tensor) -> list[float | None]:
    """Scores (B,) as a list, NaN as None."""
    return [None if score != score else score for score in scores.tolist()]


def _as_tensor(scores: torch.Tensor | Sequence[float | None]) -> torch.Tensor:
    if isinstance(scores, torch.Tensor):
        return scores.detach()
    return torch.tensor([float("nan") if score is None else score for score in scores], dtype=torch.float64)
