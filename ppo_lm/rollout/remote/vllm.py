"""What vLLM's server is asked and answers: `POST /v1/completions`, one response a request, in token ids, and the paths
that load and unload LoRA adapters at run time (vLLM 0.32, docs.vllm.ai, "OpenAI-compatible server" and "LoRA
adapters")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ppo_lm.rollout.engine import SamplingSettings
from ppo_lm.services import BadAnswer, Refused, parse, printable

VERSION, COMPLETIONS = "/version", "/v1/completions"
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
LONGEST_ANSWER = 2**20, 2**10  # bytes, and bytes per token
LONGEST_SHORT_ANSWER = 2**16  # bytes


class Response(NamedTuple):
    """The tokens of a response, its end token included, and their log-probabilities in nats."""

    ids: list[int]
    logprobs: list[float]


def completion_request(
    model: str, prompt: list[int], settings: SamplingSettings, end_ids: Sequence[int], seed: int
) -> dict[str, Any]:
    """A request for one response from the adapter `model`. Every setting that changes the distribution is named, as a
    server may have defaults of its own; and the only end tokens are ours."""
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": settings.max_new_tokens,
        "min_tokens": settings.min_new_tokens,
        "temperature": settings.temperature,
        "top_k": -1,
        "top_p": 1.0,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "seed": seed,
        "ignore_eos": True,
        "stop_token_ids": list(end_ids),
        "logprobs": 0,
        "return_token_ids": True,
    }


def longest_answer(request: dict[str, Any]) -> int:
    """How many bytes the answer to a request may have."""
    least, each = LONGEST_ANSWER
    return least + each * (len(request["prompt"]) + request["max_tokens"])


def read_completion(answer: Any, request: dict[str, Any]) -> Response:
    """The response in an answer. Raises `BadAnswer` if it is not one that `request` can have, such as one of another
    adapter."""
    model = answer.get("model") if isinstance(answer, dict) else None
    if model != request["model"]:
        raise BadAnswer(f"it answered as {printable(f'{model!r:.60}')} when asked for {request['model']!r}")
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise BadAnswer('its answer has no "choices" list with one choice')
    choice = choices[0]
    ids, described = choice.get("token_ids"), choice.get("logprobs")
    logprobs = described.get("token_logprobs") if isinstance(described, dict) else None
    if not isinstance(ids, list) or not all(type(token) is int and token >= 0 for token in ids):
        raise BadAnswer('its answer has no "token_ids"; vLLM has them from version 0.10.2 on')
    if not isinstance(logprobs, list) or not all(_is_logprob(number) for number in logprobs):
        raise BadAnswer('its answer has no "token_logprobs" that are finite numbers')
    if len(ids) != len(logprobs):
        raise BadAnswer(f"its answer has {len(ids)} tokens, but {len(logprobs)} log-probabilities")
    _check_end(ids, request)
    return Response(ids, [float(number) for number in logprobs])


def _is_logprob(number: Any) -> bool:
    return type(number) in (int, float) and math.isfinite(number) and number < 1e-3


def _check_end(ids: list[int], request: dict[str, Any]) -> None:
    """A response ends where it has to: otherwise what is filled up behind it would count as sampled."""
    most, ends = request["max_tokens"], set(request["stop_token_ids"])
    if not 0 < len(ids) <= most:
        raise BadAnswer(f"its answer has {len(ids)} tokens instead of 1 to {most}")
    ended = [place for place, token in enumerate(ids) if token in ends]
    if ended[:1] != [len(ids) - 1] and (ended or len(ids) < most):
        raise BadAnswer("its answer does not end with an end token, or goes on behind one")


def said(refused: Refused) -> str:
    """The server's own words of why it refused."""
    with suppress(BadAnswer, KeyError, TypeError, AttributeError):
        return printable(parse(refused.body)["error"]["message"]).rstrip(".")
    return printable(str(refused))


def is_unknown_model(refused: Refused) -> bool:
    """Whether the server does not know the adapter of a request for a completion."""
    return refused.status == 404 and b"NotFoundError" in refused.body


def is_unknown_path(refused: Refused) -> bool:
    """Whether the server has no such path at all."""
    return refused.status in (404, 405) and b"NotFoundError" not in refused.body


def is_loaded_already(refused: Refused) -> bool:
    """Whether the server refused to load an adapter because it has it."""
    return refused.status == 400 and b"already been loaded" in refused.body
