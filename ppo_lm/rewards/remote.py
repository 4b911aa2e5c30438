"""A reward over HTTP: a scorer that runs elsewhere, because it is large or somebody else's.

Request:  POST {"prompts": [...], "completions": [...], "columns": {"name": [...]}}
Answer:   200 {"scores": [0.5, null, ...]}

A prompt is a text or a list of messages; there is one score per completion, a finite number or null for no opinion.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from numbers import Real
from typing import TYPE_CHECKING, Any

from ppo_lm.errors import RewardError, require
from ppo_lm.rewards.registry import REWARDS
from ppo_lm.rewards.responses import Responses
from ppo_lm.rewards.reward import Reward
from ppo_lm.rewards.scores import Scores
from ppo_lm.services import BadAnswer, Refused, exchange, open_session, parse, printable, run

if TYPE_CHECKING:
    import aiohttp

LONGEST_ANSWER = 2**20, 2**10  # bytes, and bytes per completion


@REWARDS.register("remote")
class RemoteReward(Reward):
    """Scores batches by asking `url`, with up to `concurrency` requests of `batch_size` completions at once.

    A request that times out, cannot connect, gets a 408, 425, 429 or 5xx, or a malformed answer, is tried up to
    `attempts` times, waiting `wait`, 2·`wait`, 4·`wait`, … seconds in between; the other requests' scores are kept.
    After that, or on any other status, raises `RewardError`. All columns of the data are sent. Redirects are not
    followed, and answers are read up to 1 MiB plus 1 KiB per completion.
    """

    name = "remote"

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        attempts: int = 5,
        wait: float = 0.5,
        batch_size: int = 16,
        concurrency: int = 8,
    ):
        for package in ("aiohttp", "tenacity"):
            require(package, "a scorer over HTTP", "remote")
        for name, value in (
            ("timeout", timeout),
            ("attempts", attempts),
            ("batch_size", batch_size),
            ("concurrency", concurrency),
        ):
            if not value > 0:
                raise ValueError(f"{name} is {value!r}; it must be above 0")
        self.url = url
        self.timeout, self.attempts, self.wait = timeout, attempts, wait
        self.batch_size, self.concurrency = batch_size, concurrency

    def score(self, responses: Responses) -> Scores:
        """The scores from all answers. Raises `RewardError` if any request fails for good."""
        requests = []
        for start in range(0, len(responses), self.batch_size):
            rows = slice(start, start + self.batch_size)
            columns = {name: [_plain(value) for value in values[rows]] for name, values in responses.columns.items()}
            prompts, completions = list(responses.prompts[rows]), list(responses.texts[rows])
            requests.append({"prompts": prompts, "completions": completions, "columns": columns})
        return Scores.of([score for scores in run(self._ask_all(requests)) for score in scores])

    async def _ask_all(self, requests: list[dict]) -> list[list[float | None]]:
        import aiohttp

        limit = asyncio.Semaphore(self.concurrency)
        timeout = aiohttp.ClientTimeout(total=self.timeout)
        async with open_session(timeout) as session:

            async def ask(request: dict) -> list[float | None]:
                async with limit:
                    return await self._ask_until_answered(session, request)

            results = await asyncio.gather(*map(ask, requests), return_exceptions=True)
        answers = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            answers.append(result)
        return answers

    async def _ask_until_answered(self, session: aiohttp.ClientSession, request: dict) -> list[float | None]:
        from tenacity import (
            AsyncRetrying,
            retry_if_exception_type,
            stop_after_attempt,
            wait_exponential,
            wait_random,
        )

        ask = AsyncRetrying(
            retry=retry_if_exception_type(BadAnswer),
            stop=stop_after_attempt(self.attempts),
            wait=wait_exponential(multiplier=self.wait, max=30) + wait_random(0, self.wait / 4),
            reraise=True,
        )
        try:
            return await ask(self._ask, session, request)
        except Refused as refused:
            raise RewardError(f"the scorer at {self.url} {refused}") from refused
        except BadAnswer as error:
            raise RewardError(
                f"the scorer at {self.url} failed {self.attempts} times: {error}; check that it is running and can be "
                "reached"
            ) from error

    async def _ask(self, session: aiohttp.ClientSession, request: dict) -> list[float | None]:
        (least, each), count = LONGEST_ANSWER, len(request["completions"])
        return check_answer(parse(await exchange(session, self.url, request, longest=least + each * count)), count)


def check_answer(answer: Any, count: int) -> list[float | None]:
    """The scores of an answer. Raises `BadAnswer` unless there are `count` of them, each a finite number or None."""
    scores = answer.get("scores") if isinstance(answer, dict) else None
    if not isinstance(scores, list):
        raise BadAnswer('its answer has no "scores" list')
    if len(scores) != count:
        raise BadAnswer(f"it returned {len(scores)} scores for {count} completions")
    for place, score in enumerate(scores):
        if score is not None and not _is_finite_number(score):
            raise BadAnswer(f"it returned {printable(f'{score!r:.60}')} for completion {place} of {count}")
    return [None if score is None else float(score) for score in scores]


def _is_finite_number(score: Any) -> bool:
    return isinstance(score, Real) and not isinstance(score, bool) and math.isfinite(score)


def _plain(value: Any) -> Any:
    """A value that JSON can hold: dataclasses as objects, NaN and infinity as null. Anything else that JSON cannot
    represent, such as a date, is sent as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
