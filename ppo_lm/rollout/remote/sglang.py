"""What SGLang's server is asked and answers: `POST /generate`, one response a request, in token ids, and the paths that
load and unload LoRA adapters at run time (SGLang 0.5.23, docs.sglang.io, "Native APIs", "Sampling parameters" and "LoRA
serving")."""

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
from ppo_lm.services import BadAnswer

GENERATE, LOAD = "/generate", "/load_lora_adapter"
SEEDS = "enable_deterministic_inference"  # without it, the server takes the seed of a request, and ignores it


def write_generate(request: Request) -> dict[str, Any]:
    """See `Dialect.write`."""
    settings = request.settings
    return {
        "input_ids": request.prompt,
        "lora_path": request.adapter,
        "sampling_params": {
            "max_new_tokens": settings.max_new_tokens,
            "min_new_tokens": settings.min_new_tokens,
            "temperature": settings.temperature,
            **PLAIN,
            "sampling_seed": request.seed,
            "ignore_eos": False,  # with it, the server would also ignore `stop_token_ids`
            "stop_token_ids": request.ends,
        },
        "return_logprob": True,
    }


def read_generate(answer: Any, request: Request) -> Response:
    """See `Dialect.read`. Answers do not name the adapter."""
    about = answer.get("meta_info") if isinstance(answer, dict) else None
    tokens = about.get("output_token_logprobs") if isinstance(about, dict) else None
    if not isinstance(tokens, list) or not all(isinstance(each, list) and len(each) >= 2 for each in tokens):
        raise BadAnswer('its answer has no "output_token_logprobs", a list of log-probabilities and tokens')
    logprobs, ids = [each[0] for each in tokens], [each[1] for each in tokens]
    if not all(map(is_token, ids)) or ids != answer.get("output_ids"):
        raise BadAnswer('the tokens of its "output_token_logprobs" are not its "output_ids"')
    if not all(map(is_logprob, logprobs)):
        raise BadAnswer('its answer has no "output_token_logprobs" that are finite numbers')
    return checked(ids, logprobs, request)


def _describe(answer: Any) -> str:
    version = version_in(answer, "SGLang")
    if SEEDS not in answer:
        raise BadAnswer(f'its answer has no "{SEEDS}", so it is not SGLang')
    return version if answer[SEEDS] else f"{version}, which ignores seeds without --{SEEDS.replace('_', '-')}"


def _words(answer: Any) -> str:
    words = answer["error"] if "error" in answer else answer["error_message"]
    return words["message"] if isinstance(words, dict) else words


SGLANG = Dialect(
    name="SGLang",
    about="/server_info",
    generate=GENERATE,
    load=LOAD,
    unload="/unload_lora_adapter",
    write=write_generate,
    read=read_generate,
    describe=_describe,
    said=lambda refused: words_in(refused, _words),
    is_unknown_adapter=lambda refused: refused.status == 400 and b"has never been loaded" in refused.body,
    cannot_load=lambda refused: refused.status in (404, 405) or b"LoRA is not enabled" in refused.body,
    is_loaded_already=lambda refused: refused.status == 400 and b"already loaded" in refused.body,
    to_load="--enable-lora",
    to_report="no SGLANG_RETURN_ORIGINAL_LOGPROB in its environment",
)
