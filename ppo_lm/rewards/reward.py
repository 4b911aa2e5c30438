"""The protocol of everything that scores responses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ppo_lm.errors import NumericalFault, RewardError, UserError
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.models import BaseModel, RewardModel
from ppo_lm.rewards.responses import Responses
from ppo_lm.rewards.scores import Scores


@dataclass(frozen=True)
class RewardContext:
    """Where rewards run. `find_base(folder)` is the base that the adapter in `folder` belongs to; `budget` limits how
    many tokens are in memory at once."""

    device: torch.device
    find_base: Callable[[Path], BaseModel]
    budget: MemoryBudget

    @classmethod
    def on(cls, base: BaseModel, budget: MemoryBudget) -> RewardContext:
        """On the single base of a run."""
        return cls(base.device, lambda folder: base, budget)


class Reward(ABC):
    """Scores responses. A subclass defines `name` and `score`, and overrides the rest as needed.

    A reward may be named in a configuration as `path/file.py:Class`; it is then created without arguments, before any
    model is loaded, so anything large belongs in `make_ready`.
    """

    name: str = "reward"
    needs_columns: Sequence[str] = ()
    """Columns of the data that `score` reads."""
    models: Sequence[RewardModel] = ()
    """The reward models on the shared base that `score` runs, once it is ready. A value model may start from the
    first."""

    def missing_columns(self, columns: Iterable[str]) -> list[str]:
        """The `needs_columns` that are missing from `columns`."""
        given = set(columns)
        return [name for name in self.needs_columns if name not in given]

    def make_ready(self, context: RewardContext) -> None:  # noqa: B027  (most rewards have nothing to load)
        """Load what `score` needs. Called once, before the first `score`. Raises `ModelError`."""

    @abstractmethod
    def score(self, responses: Responses) -> Scores:
        """A score for each of the B responses. Raises `RewardError`, and `NumericalFault` for a number that is
        infinite, or NaN without meaning "no opinion"."""


def ask(reward: Reward, responses: Responses) -> Scores:
    """`reward.score(responses)`, checked. Raises `RewardError` if it raises anything but a `UserError`, or returns
    anything but B scores; `NumericalFault`, with the batch, if a number is infinite."""
    try:
        scores = reward.score(responses)
        _check(scores, reward.name, len(responses))
    except NumericalFault as fault:
        fault.batch = responses.sa_pairs
        raise
    except UserError:
        raise
    except Exception as error:
        raise RewardError(
            f"reward {reward.name} raised {type(error).__name__} on a batch of {len(responses)} responses: {error}"
        ) from error
    return scores


def _check(scores: Scores, name: str, count: int) -> None:
    if not isinstance(scores, Scores):
        raise RewardError(
            f"reward {name} returned {scores!r:.60}; it must return Scores, as Scores.of([0.5, ...]) does"
        )
    for part, values in {"total": scores.total, "plain": scores.plain, **scores.parts}.items():
        if values.shape != (count,):
            raise RewardError(
                f"reward {name} returned {part!r} of shape {tuple(values.shape)} for {count} responses; it must return "
                "one number per response"
            )
        if values.isinf().any():
            raise NumericalFault(f"reward {name} returned an infinite number in {part!r}")
