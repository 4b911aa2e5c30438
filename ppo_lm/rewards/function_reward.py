"""A function as a reward: plain or async, for a batch or one sample at a time."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence

from ppo_lm.data import RESERVED
from ppo_lm.data.examples import wrap_completion
from ppo_lm.errors import NumericalFault, RewardError
from ppo_lm.fingerprint import source_of
from ppo_lm.rewards.responses import Responses
from ppo_lm.rewards.reward import Reward
from ppo_lm.rewards.scores import Scores
from ppo_lm.services import contained, run

SINGULAR = {"prompt": "prompts", "completion": "completions"}


class FunctionReward(Reward):
    """A function `fn(prompts, completions, **columns) -> list[float]`, the signature of TRL's GRPO reward functions.

    Columns are lists as long as the prompts: those of the data set, `terminated` (whether the response ended by itself)
    and `completion_ids`. A function gets the ones it names, or all if it takes **kwargs. For a conversation, prompt and
    completion are lists of messages. None means "no opinion". Async functions are awaited. A function with the
    arguments `prompt` or `completion` judges one sample per call; if it is async, all calls run concurrently.

    It needs the columns named by its arguments without a default, and `needs_columns`.
    """

    def __init__(self, function: Callable, name: str | None = None, needs_columns: Sequence[str] = ()):
        self.function = function
        self.name = name or getattr(function, "__name__", type(function).__name__)
        if not callable(function):
            raise RewardError(
                f"reward {function!r} is not a function; give one with the signature fn(prompts, completions, "
                "**columns)"
            )
        parameters = inspect.signature(function).parameters.values()
        self._takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
        self._names = {parameter.name for parameter in parameters}
        self._one_by_one = bool(self._names & set(SINGULAR)) and not self._names & {"prompts", "completions"}
        given = {*RESERVED, *(SINGULAR if self._one_by_one else ())}
        named = [
            p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        self.required = [*named, *needs_columns]  # what it cannot be called without
        self.needs_columns = [name for name in self.required if name not in given]
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)

    def identity(self) -> object:
        """The function's code."""
        return source_of(self.function)

    def score(self, responses: Responses) -> Scores:
        """The function's numbers, fp64. Raises `NumericalFault` for NaN or infinity, and `RewardError` unless the
        function returns one number, or None, per response; both name the completion."""
        prompts, completions = responses.prompts, responses.texts
        wrapped = [wrap_completion(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        offered = {
            "prompts": list(prompts),
            "completions": wrapped,
            **{name: list(values) for name, values in responses.columns.items()},
        }
        scores = self._call_one_by_one(offered, len(wrapped)) if self._one_by_one else self._call(offered)
        return Scores.of(self._check(scores, completions))

    def _call(self, offered: Mapping[str, list]):
        taken = {name: values for name, values in offered.items() if self._takes_all or name in self._names}
        return run(self.function(**taken)) if self._is_async else self.function(**taken)

    def _call_one_by_one(self, offered: dict[str, list], count: int):
        singular = {**offered, **{name: offered[plural] for name, plural in SINGULAR.items()}}
        if self._takes_all:
            del singular["prompts"], singular["completions"]
        names = [name for name in singular if self._takes_all or name in self._names]
        calls = [{name: singular[name][row] for name in names} for row in range(count)]
        if not self._is_async:
            return [self.function(**call) for call in calls]

        async def all_at_once():
            return await asyncio.gather(*(contained(self.function(**call)) for call in calls))

        return run(all_at_once())

    def _check(self, scores, completions: Sequence[str]) -> list[float | None]:
        scores = scores.tolist() if hasattr(scores, "tolist") else scores
        if isinstance(scores, (str, bytes)) or not isinstance(scores, Sequence):
            raise RewardError(
                f"reward function {self.name} returned {_show(scores)}; it must return a list of {len(completions)} "
                "numbers, one per completion"
            )
        if len(scores) != len(completions):
            raise RewardError(
                f"reward function {self.name} returned {len(scores)} scores for {len(completions)} completions; it "
                "must return one for each"
            )
        return [self._number(score, place, completions) for place, score in enumerate(scores)]

    def _number(self, score, place: int, completions: Sequence[str]) -> float | None:
        if score is None:
            return None
        number = _as_float(score)
        if number is None or not math.isfinite(number):
            raise (RewardError if number is None else NumericalFault)(
                f"reward function {self.name} returned {_show(score)} for completion {place} of {len(completions)} "
                f"({_show(completions[place])}); it must return a finite number, or None for no opinion"
            )
        return number


def _as_float(score) -> float | None:
    """Whatever stands for one number, such as a 0-d tensor or a NumPy bool, as a float; None for anything else."""
    if isinstance(score, (str, bytes)):
        return None
    try:
        return float(score.detach() if hasattr(score, "detach") else score)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError, RuntimeError):
        return None


def _show(value) -> str:
    try:
        text = repr(value)
    except Exception:  # a user's class, or an int with more digits than Python prints
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
