"""Fit prompts to a model: cut, encode and check them, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ppo_lm.data.encoding import decode, encode_prompt, fit_prompt
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
    report = replace(report, dropped=list(report.dropped), cut=0, special_tokens={})
    rows, fitted, ids, uncut = [], [], [], []
    for row, prompt in enumerate(prompts.prompts):
        report.count_special_tokens(base, prompt)
        shorter = prompt
        try:
            tokens = _encode(base, prompt)
        except DataError as error:
            report.drop(f"prompt {row + 1}", str(error))
            continue
        unknown = _unknown(tokens, base)
        if unknown:
            report.drop(f"prompt {row + 1}", unknown)
            continue
        if max_prompt_tokens and len(tokens) > max_prompt_tokens:
            shorter = fit_prompt(base, prompt, max_prompt_tokens)
            if shorter is None:
                report.drop(
                    f"prompt {row + 1}", f"has no sentence that ends within max_prompt_tokens {max_prompt_tokens}"
                )
                continue
            tokens = _encode(base, shorter)
        problem = _problem(tokens, base, max_new_tokens)
        for other in also:
            problem = problem or _problem(_encode(other, _readable(base, shorter)), other, max_new_tokens)
        if problem:
            report.drop(f"prompt {row + 1}", problem)
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
    for prompt in prompts:
        try:
            ids.append(_encode(base, prompt))
            problems.append(_problem(ids[-1], base, max_new_tokens))
        except DataError as error:
            problems.append(str(error))
    named = [f"prompt {number} {problem}" for number, problem in enumerate(problems) if problem]
    if named:
        more = f"; and {len(named) - SHOWN_PROBLEMS} more" if len(named) > SHOWN_PROBLEMS else ""
        raise DataError(
            f"{'; '.join(named[:SHOWN_PROBLEMS])}{more} (counted from 0); change them, or lower max_new_tokens"
        )
    return ids


def check_prompts(prompts: Sequence[Prompt]) -> None:
    """Raise `DataError` unless `prompts` is a non-empty list of texts, conversations or lists of token ids."""
    if isinstance(prompts, str) or not len(prompts) or not all(isinstance(prompt, (str, list)) for prompt in prompts):
        raise DataError(
            f"prompts must be a non-empty list of texts, conversations or lists of token ids; got {prompts!r:.60}"
        )


def _encode(base: BaseModel, prompt: Prompt) -> list[int]:
    return encode_prompt(base.tokenizer, prompt, allow_special_tokens=base.allow_special_tokens)


def _problem(tokens: Sequence[int], base: BaseModel, max_new_tokens: int) -> str | None:
    """Why a model cannot respond to a prompt of these tokens, worded to follow its location."""
    if not tokens:
        return "is empty"
    unknown = _unknown(tokens, base)
    if unknown:
        return unknown
    room = base.context_length - max_new_tokens
    if len(tokens) > room:
        return (
            f"has {len(tokens)} tokens, more than {room}: the model's context of {base.context_length} minus "
            f"max_new_tokens {max_new_tokens}"
        )
    return None


def _unknown(tokens: Sequence[int], base: BaseModel) -> str | None:
    """A clause if one of the tokens, which may be given as ids, is not in the model's vocabulary."""
    network: Any = base.network
    words = len(network.get_input_embeddings().weight)
    known = all(0 <= token < words for token in tokens)
    return None if known else f"has a token id that is not in the model's vocabulary, 0 to {words - 1}"


def _readable(base: BaseModel, prompt: Prompt) -> Prompt:
    return decode(base.tokenizer, prompt) if is_token_ids(prompt) else prompt
