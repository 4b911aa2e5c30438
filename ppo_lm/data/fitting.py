"""Fit prompts to a model: cut, encode and check them, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ppo_lm.data.encoding import decode, encode_prompt, fit_prompt
from ppo_lm.data.examples import Prompt, is_token_ids
from ppo_lm.data.prompts import PromptSet
from ppo_lm.data.report import DataReport
from ppo_lm.errors import DataError

if TYPE_CHECKING:
    from ppo_lm.models import BaseModel


def fit_prompts(
    prompts: PromptSet, report: DataReport, base: BaseModel, *, max_prompt_tokens: int, max_new_tokens: int
) -> tuple[PromptSet, DataReport]:
    """Cut prompts to `max_prompt_tokens` (0: no limit), drop those that cannot be cut that short, and encode the rest.
    Returns the prompts with `ids` and `uncut`, and the report with their lengths. Raises `DataError` if none is left,
    or if one leaves no room in the model's context for a response of `max_new_tokens`."""
    report = replace(report, dropped=list(report.dropped), cut=0)
    rows, fitted, ids, uncut = [], [], [], []
    for row, prompt in enumerate(prompts.prompts):
        given, tokens = _readable(base, prompt), encode_prompt(base.tokenizer, prompt)
        if max_prompt_tokens and len(tokens) > max_prompt_tokens:
            shorter = fit_prompt(base.tokenizer, prompt, max_prompt_tokens)
            if shorter is None:
                report.drop(
                    f"prompt {row + 1}", f"has no sentence that ends within max_prompt_tokens {max_prompt_tokens}"
                )
                continue
            report.cut += 1
            prompt, tokens = shorter, encode_prompt(base.tokenizer, shorter)
        rows.append(row)
        fitted.append(_readable(base, prompt))
        ids.append(tokens)
        uncut.append(given)
    if not rows:
        raise DataError(
            f"prompts: none has a sentence that ends within max_prompt_tokens {max_prompt_tokens}; raise "
            "max_prompt_tokens"
        )
    check_lengths(ids, max_new_tokens, base.context_length)
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
    ids = [encode_prompt(base.tokenizer, prompt) for prompt in prompts]
    check_lengths(ids, max_new_tokens, base.context_length)
    return ids


def check_prompts(prompts: Sequence[Prompt]) -> None:
    """Raise `DataError` unless `prompts` is a non-empty list of texts, conversations or lists of token ids."""
    if isinstance(prompts, str) or not len(prompts) or not all(isinstance(prompt, (str, list)) for prompt in prompts):
        raise DataError(
            f"prompts must be a non-empty list of texts, conversations or lists of token ids; got {prompts!r:.60}"
        )


def check_lengths(ids: Sequence[Sequence[int]], max_new_tokens: int, context_length: int) -> None:
    """Raise `DataError`, naming the offending prompts by number, unless every prompt has at least one token and leaves
    room for the response."""
    room = context_length - max_new_tokens
    problems = [f"prompt {i} is empty" for i, tokens in enumerate(ids) if not tokens]
    problems += [f"prompt {i} has {len(tokens)} tokens" for i, tokens in enumerate(ids) if len(tokens) > room]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise DataError(
            f"{', '.join(problems[:5])}{more} (counted from 0); a prompt needs at least 1 token and at most {room}: "
            f"the model's context of {context_length} minus max_new_tokens {max_new_tokens}; shorten it, set "
            "max_prompt_tokens to cut long prompts, or lower max_new_tokens"
        )


def _readable(base: BaseModel, prompt: Prompt) -> Prompt:
    return decode(base.tokenizer, prompt) if is_token_ids(prompt) else prompt
