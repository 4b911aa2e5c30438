"""Call a reward function, and make sure of what it returns."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real

from ppo_lm.errors import RewardError


class FunctionReward:
    """A function `fn(prompts, completions, **columns) -> list[float]`, the signature of TRL's GRPO reward functions.

    Columns are lists as long as the prompts: those of the data set, and `terminated` (did the response end by itself). A function
    gets the ones it names, or all if it takes **kwargs.
    """

    def __init__(self, function: Callable, name: str | None = None):
        self.function = function
        self.name = name or getattr(function, "__name__", type(function).__name__)
        if not callable(function):
            raise RewardError(f"reward {function!r} is not a function; give one with the signature fn(prompts, completions, **columns)")
        parameters = inspect.signature(function).parameters.values()
        self._takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
        self._names = {parameter.name for parameter in parameters}
        self._needs = [p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]

    def missing_columns(self, columns: Iterable[str]) -> list[str]:
        """The arguments without a default that neither ppo_lm nor `columns` gives."""
        given = {"prompts", "completions", "terminated", *columns}
        return [name for name in self._needs if name not in given]

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], columns: Mapping[str, list] | None = None) -> list[float]:
        """One finite number a completion. Raises `RewardError` with the place when the function raises or returns anything else."""
        offered = {"prompts": prompts, "completions": completions, **(columns or {})}
        taken = {name: list(values) for name, values in offered.items() if self._takes_all or name in self._names}
        try:
            scores = self.function(**taken)
        except Exception as error:
            raise RewardError(
                f"reward function {self.name} raised {type(error).__name__} on a batch of {len(completions)} completions: {error}"
            ) from error
        return self._check(scores, completions)

    def _check(self, scores, completions: Sequence[str]) -> list[float]:
        scores = scores.tolist() if hasattr(scores, "tolist") else scores
        if isinstance(scores, (str, bytes)) or not isinstance(scores, Sequence):
            raise RewardError(f"reward function {self.name} returned {_show(scores)}; it must return a list of {len(completions)} numbers, one a completion")
        if len(scores) != len(completions):
            raise RewardError(f"reward function {self.name} returned {len(scores)} scores for {len(completions)} completions; it must return one for each")
        for place, (score, completion) in enumerate(zip(scores, completions)):
            if not isinstance(score, Real) or not math.isfinite(score):
                raise RewardError(
                    f"reward function {self.name} returned {_show(score)} for completion {place} of {len(completions)} "
                    f"({_show(completion)}); it must return a finite number"
                )
        return [float(score) for score in scores]


def _show(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
