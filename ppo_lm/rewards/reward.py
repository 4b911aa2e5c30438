"""The protocol of everything that scores responses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ppo_lm.distributed import processes
from ppo_lm.errors import NumericalFault, RewardError, UserError
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.fingerprint import source_of
from ppo_lm.models import BaseModel, RewardModel
from ppo_lm.rewards.responses import Responses
from ppo_lm.rewards.scores import Scores
from ppo_lm.user_code import call_within, user_code


@dataclass(frozen=True)
class RewardContext:
    """Where rewards run. `find_base(folder)` is the base that the adapter in `folder` belongs to; `budget` limits how
    many tokens are in memory at once; `allow_special_tokens` as in `BaseModel`."""

    device: torch.device
    find_base: Callable[[Path], BaseModel]
    budget: MemoryBudget
    allow_special_tokens: bool = False

    @classmethod
    def on(cls, base: BaseModel, budget: MemoryBudget) -> RewardContext:
        """On the single base of a run."""
        return cls(base.device, lambda folder: base, budget, base.allow_special_tokens)


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

    def identity(self) -> object:
        """What `score` depends on, once ready: a plain value or hash that is different if it has changed since a run
        was paused. By default, the code of the class."""
        return source_of(type(self))

    @abstractmethod
    def score(self, responses: Responses) -> Scores:
        """A score for each of the B responses. Raises `RewardError`, and `NumericalFault` for a number that is
        infinite, or NaN without meaning "no opinion"."""


def make_ready(reward: Reward, context: RewardContext) -> None:
    """`reward.make_ready`. Raises `RewardError` if it raises anything but a `UserError`."""
    with user_code(f"reward {reward.name}", "in make_ready()", RewardError, UserError):
        reward.make_ready(context)


def identify(reward: Reward) -> object:
    """`reward.identity`. Raises `RewardError` if it raises anything but a `UserError`."""
    with user_code(f"reward {reward.name}", "in identity()", RewardError, UserError):
        return reward.identity()


def ask(reward: Reward, responses: Responses, timeout: float = 0.0) -> Scores:
    """`reward.score`, checked. Raises `NumericalFault`, with the batch, if a number is infinite; `RewardError` if the
    reward raises anything else, returns anything but B scores, or takes longer than `timeout` seconds (0: no limit).
    Anything but a reward model, which has no limit either, gets a copy of the responses."""
    given, limit = (responses, 0.0) if reward.models else (responses.copied(), timeout)
    when = f"on a batch of {len(responses)} responses"
    try:
        with user_code(f"reward {reward.name}", when, RewardError, RewardError, NumericalFault):
            scores = _score(reward, given, limit)
    except NumericalFault as fault:
        fault.batch = responses.sa_pairs
        raise
    return scores


def _score(reward: Reward, responses: Responses, limit: float) -> Scores:
    """In all processes if the reward runs models, which share the work; otherwise in the first one only."""

    def score() -> Scores:
        scores = call_within(limit, lambda: reward.score(responses))
        _check(scores, reward.name, len(responses))
        return scores

    return score() if reward.models else processes().once(score)


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
