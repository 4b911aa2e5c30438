"""Fit prompts to a model: cut, encode and check them, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ppo_lm.data.encoding import decode, encode_for, fit_prompt
from ppo_lm.data.examples import Prompt, is_token_ids
from ppo_lm.data.prompts import PromptSet
from ppo_lm.data.report import SHOWN_PROBLEMS, DataReport
from ppo_lm.errors import DataError

if TYPE_CHECKING:
    from ppo_lm.models import BaseModel


def fit_prompts(
    prompts: PromptSet,
    report: DataReport,
    base: BaseModel,
    *,
    max_prompt_tokens: int,
    max_new_tokens: int,
    also: Sequence[BaseModel] = (),
) -> tuple[PromptSet, DataReport]:
    """Cut prompts to `max_prompt_tokens` (0: no limit), drop those that cannot be cut that short and those that leave
    no room for a response of `max_new_tokens` in the context of `base` or of a model in `also`, and encode the rest for
    `base`. Returns the prompts with `ids` and `uncut`, and the report with their lengths. Raises `DataError` if none is
    left."""
    report = replace(report, dropped=list(report.dropped), cut=0, plain=0, special_tokens={})
    rows, fitted, ids, uncut = [], [], [], []
    for row, prompt in enumerate(prompts.prompts):
        report.look_at(base, prompt, prompt)
        try:
            shorter, tokens = _fit(base, prompt, max_prompt_tokens)
            _check_room(tokens, base, max_new_tokens)
            for other in also:
                _check_room(_encode(other, _readable(base, shorter)), other, max_new_tokens)
        except DataError as problem:
            report.drop(row, str(problem))
            continue
        report.cut += shorter != prompt
        rows.append(row)
        fitted.append(_readable(base, shorter))
        ids.append(tokens)
        uncut.append(_readable(base, prompt))
    if not rows:
        raise DataError(
            f"prompts: none can be used: {report.dropped[-1]}; give others, change max_prompt_tokens, which cuts long "
            "prompts, or lower max_new_tokens"
        )
    report.lengths = [len(tokens) for tokens in ids]
    return PromptSet(fitted, prompts.select(rows).columns, ids, uncut), report


def encode_prompt_set(prompts: PromptSet, base: BaseModel, max_new_tokens: int) -> PromptSet:
    """`prompts` with their `ids`. Prompts given as token ids keep them, and are decoded to text for rewards and people.
    Raises `DataError` like `encode_prompts`."""
    ids = encode_prompts(prompts.prompts, base, max_new_tokens)
    return PromptSet([_readable(base, prompt) for prompt in prompts.prompts], prompts.columns, ids)


def encode_prompts(prompts: Sequence[Prompt], base: BaseModel, max_new_tokens: int) -> list[list[int]]:
    """The token ids of texts and conversations; token ids are returned as they are. Raises `DataError` unless `prompts`
    is a non-empty list, and each prompt leaves room for a response of `max_new_tokens`."""
    check_prompts(prompts)
    ids, problems = [], []
    for number, prompt in enumerate(prompts):
        try:
            ids.append(_encode(base, prompt))
            _check_room(ids[-1], base, max_new_tokens)
        except DataError as problem:
            problems.append(f"prompt {number} {problem}")
    if problems:
        more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise DataError(
            f"{'; '.join(problems[:SHOWN_PROBLEMS])}{more} (counted from 0); change them, or lower max_new_tokens"
        )
    return ids


def check_prompts(prompts: Sequence[Prompt]) -> None:
    """Raise `DataError` unless `prompts` is a non-empty list of texts, conversations or lists of token ids."""
    if isinstance(prompts, str) or not len(prompts) or not all(isinstance(prompt, (str, list)) for prompt in prompts):
        raise DataError(
            f"prompts must be a non-empty list of texts, conversations or lists of token ids; got {prompts!r:.60}"
        )


def _fit(base: BaseModel, prompt: Prompt, max_prompt_tokens: int) -> tuple[Prompt, list[int]]:
    """The prompt, cut if it has more than `max_prompt_tokens` tokens (0: no limit), and its token ids. Raises
    `DataError` like `_encode`, and if it cannot be cut."""
    tokens = _encode(base, prompt)
    if max_prompt_tokens == 0 or len(tokens) <= max_prompt_tokens:
        return prompt, tokens
    shorter = fit_prompt(base, prompt, max_prompt_tokens)
    if shorter is None:
        raise DataError(f"has no sentence that ends within max_prompt_tokens {max_prompt_tokens}")
    return shorter, _encode(base, shorter)


def _encode(base: BaseModel, prompt: Prompt) -> list[int]:
    """The token ids of a prompt. Raises `DataError`, worded to follow its place, if it cannot be encoded, or was given
    as ids that the model does not know."""
    tokens = encode_for(base, prompt)
    network: Any = base.network
    words = len(network.get_input_embeddings().weight)
    if not all(0 <= token < words for token in tokens):
        raise DataError(f"has a token id that is not in the model's vocabulary, 0 to {words - 1}")
    return tokens


def _check_room(tokens: Sequence[int], base: BaseModel, max_new_tokens: int) -> None:
    """Raise `DataError`, worded to follow the prompt's place, unless there are tokens, and room for the response."""
    if not tokens:
        raise DataError("is empty")
    room = base.context_length - max_new_tokens
    if len(tokens) > room:
        raise DataError(
            f"has {len(tokens)} tokens, more than {room}: the model's context of {base.context_length} minus "
            f"max_new_tokens {max_new_tokens}"
        )


def _readable(base: BaseModel, prompt: Prompt) -> Prompt:
    return decode(base.tokenizer, prompt) if is_token_ids(prompt) else prompt
