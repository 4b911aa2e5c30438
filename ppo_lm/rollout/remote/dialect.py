"""What differs between the kinds of servers, and what every response has to be."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from ppo_lm.rollout.engine import SamplingSettings
from ppo_lm.services import BadAnswer, Refused, parse, printable

LONGEST_ANSWER = 2**20, 2**10  # bytes, and bytes per token
PLAIN = {  # fields that all servers have, with the values that leave the distribution as it is
    "top_k": -1,
    "top_p": 1.0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}


class Request(NamedTuple):
    """One response is wanted: of the adapter with this name, to this prompt, ended by any of `ends`, with random
    numbers from `seed`."""

    adapter: str
    prompt: list[int]
    settings: SamplingSettings
    ends: list[int]
    seed: int

    @property
    def longest_answer(self) -> int:
        """How many bytes the answer may have."""
        least, each = LONGEST_ANSWER
        return least + each * (len(self.prompt) + self.settings.max_new_tokens)


class Response(NamedTuple):
    """The tokens of a response, its end token included, and their log-probabilities in nats."""

    ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True)
class Dialect:
    """How a kind of server is asked, and what its answers mean."""

    name: str
    """Of the program, for people."""
    about: str
    """The path under which it describes itself. This and the next three are relative to the server's address."""
    generate: str
    load: str
    unload: str
    write: Callable[[Request], dict[str, Any]]
    """The body of a request for a response. Every setting that changes the distribution is in it, as a server may have
    defaults of its own."""
    read: Callable[[Any, Request], Response]
    """The response in an answer. Raises `BadAnswer` if it is not one that the request can have."""
    describe: Callable[[Any], str]
    """The server's version, and what people should know of how it was started, from its answer to `about`. Raises
    `BadAnswer` if it is another kind of server."""
    said: Callable[[Refused], str]
    """The server's own words of why it refused."""
    is_unknown_adapter: Callable[[Refused], bool]
    """Whether it refused a request because it does not know the adapter."""
    cannot_load: Callable[[Refused], bool]
    """Whether it refused an adapter because it takes none while it runs."""
    is_loaded_already: Callable[[Refused], bool]
    """Whether it refused an adapter because it has it."""
    to_load: str
    """What to start it with, so that it takes adapters."""
    to_report: str
    """What to start it with, so that log-probabilities are those of the distribution that is sampled from."""


def checked(ids: list[int], logprobs: list[float], request: Request) -> Response:
    """The response, if it has a log-probability for each token and ends where it has to: otherwise what is filled up
    behind it would count as sampled. Raises `BadAnswer`."""
    if len(ids) != len(logprobs):
        raise BadAnswer(f"its answer has {len(ids)} tokens, but {len(logprobs)} log-probabilities")
    most, ends = request.settings.max_new_tokens, set(request.ends)
    if not 0 < len(ids) <= most:
        raise BadAnswer(f"its answer has {len(ids)} tokens instead of 1 to {most}")
    ended = [place for place, token in enumerate(ids) if token in ends]
    if ended[:1] != [len(ids) - 1] and (ended or len(ids) < most):
        raise BadAnswer("its answer does not end with an end token, or goes on behind one")
    return Response(ids, [float(number) for number in logprobs])


def is_token(value: Any) -> bool:
    """Whether it is the id of a token."""
    return type(value) is int and value >= 0


def is_logprob(value: Any) -> bool:
    """Whether it is a finite log-probability, up to rounding."""
    return type(value) in (int, float) and math.isfinite(value) and value < 1e-3


def words_in(refused: Refused, find: Callable[[Any], str]) -> str:
    """A server's own words of why it refused, which `find` takes from its answer; what is known without them if there
    are none."""
    with suppress(BadAnswer, KeyError, TypeError, AttributeError):
        return printable(find(parse(refused.body))).rstrip(".")
    return printable(str(refused))


def version_in(answer: Any, program: str) -> str:
    """The "version" in what a server says of itself. Raises `BadAnswer`."""
    version = answer.get("version") if isinstance(answer, dict) else None
    if not isinstance(version, str):
        raise BadAnswer(f'its answer has no "version", so it is not {program}')
    return version
