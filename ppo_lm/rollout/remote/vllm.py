"""What vLLM's server is asked and answers: `POST /v1/completions`, one response a request, in token ids, and the paths
that load and unload LoRA adapters at run time (vLLM 0.32, docs.vllm.ai, "OpenAI-compatible server" and "LoRA
adapters")."""

from __future__ import annotations

from typing import Any

from ppo_lm.rollout.remote.dialect import (
    PLAIN,
    Dialect,
    Request,
    Response,
    checked,
    is_logprob,
    is_token,
    version_in,
    words_in,
)
from ppo_lm.services import BadAnswer, printable

COMPLETIONS, LOAD = "/v1/completions", "/v1/load_lora_adapter"


def write_completion(request: Request) -> dict[str, Any]:
    """See `Dialect.write`."""
    settings = request.settings
    return {
        "model": request.adapter,
        "prompt": request.prompt,
        "max_tokens": settings.max_new_tokens,
        "min_tokens": settings.min_new_tokens,
        "temperature": settings.temperature,
        **PLAIN,
        "seed": request.seed,
        "ignore_eos": True,
        "stop_token_ids": request.ends,
        "logprobs": 0,
        "return_token_ids": True,
    }


def read_completion(answer: Any, request: Request) -> Response:
    """See `Dialect.read`; an answer of another adapter is not one that the request can have."""
    model = answer.get("model") if isinstance(answer, dict) else None
    if model != request.adapter:
        raise BadAnswer(f"it answered as {printable(f'{model!r:.60}')} when asked for {request.adapter!r}")
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise BadAnswer('its answer has no "choices" list with one choice')
    choice = choices[0]
    ids, described = choice.get("token_ids"), choice.get("logprobs")
    logprobs = described.get("token_logprobs") if isinstance(described, dict) else None
    if not isinstance(ids, list) or not all(map(is_token, ids)):
        raise BadAnswer('its answer has no "token_ids"; vLLM has them from version 0.10.2 on')
    if not isinstance(logprobs, list) or not all(map(is_logprob, logprobs)):
        raise BadAnswer('its answer has no "token_logprobs" that are finite numbers')
    return checked(ids, logprobs, request)


VLLM = Dialect(
    name="vLLM",
    about="/version",
    generate=COMPLETIONS,
    load=LOAD,
    unload="/v1/unload_lora_adapter",
    write=write_completion,
    read=read_completion,
    describe=lambda answer: version_in(answer, "vLLM"),
    said=lambda refused: words_in(refused, lambda answer: answer["error"]["message"]),
    is_unknown_adapter=lambda refused: refused.status == 404 and b"NotFoundError" in refused.body,
    cannot_load=lambda refused: refused.status in (404, 405) and b"NotFoundError" not in refused.body,
    is_loaded_already=lambda refused: refused.status == 400 and b"already been loaded" in refused.body,
    to_load="--enable-lora, and with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment",
    to_report="--logprobs-mode processed_logprobs",
)
