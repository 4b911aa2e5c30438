"""Examples with their token ids, those that fit; what SFT and reward modelling share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from transformers import PreTrainedTokenizerBase

from ppo_lm.data.encoding import fit_prompt
from ppo_lm.data.prompts import split_rows
from ppo_lm.data.report import DataReport
from ppo_lm.errors import DataError

Text, Tokens = TypeVar("Text"), TypeVar("Tokens")


@dataclass(frozen=True)
class Encoded(Generic[Text, Tokens]):
    """Examples (demonstrations or preferences, their prompts cut) and their token ids, row by row."""

    texts: list[Text]
    tokens: list[Tokens]

    def select(self, rows: list[int]) -> Encoded[Text, Tokens]:
        """The examples at `rows`, in that order."""
        return Encoded([self.texts[row] for row in rows], [self.tokens[row] for row in rows])

    def split(
        self, held_out: int, seed: int, report: DataReport
    ) -> tuple[Encoded[Text, Tokens], Encoded[Text, Tokens]]:
        """(to train on, held out) as `split_rows` does, counted in the report."""
        prompts = [str(example.prompt) for example in self.texts]
        train, test = split_rows(prompts, held_out, seed)
        report.describe_split([prompts[row] for row in train], [prompts[row] for row in test])
        return self.select(train), self.select(test)


def encode_all(
    examples: Sequence[Text],
    tokenizer: PreTrainedTokenizerBase,
    encode: Callable[[Text], tuple[Tokens, int]],
    report: DataReport,
    *,
    role: str,
    max_prompt_tokens: int,
    limit: int,
) -> Encoded[Text, Tokens]:
    """Cut every prompt, and encode every example: `encode` returns its token ids and their number. Those over `limit`,
    and those that cannot be cut, are counted out of the report. Raises `DataError` if none is left."""
    found = Encoded([], [])
    for number, example in enumerate(examples, start=1):
        prompt = fit_prompt(tokenizer, example.prompt, max_prompt_tokens)
        if prompt is None:
            report.drop(f"example {number}", f"has no sentence that ends within max_prompt_tokens {max_prompt_tokens}")
            continue
        cut = replace(example, prompt=prompt)
        tokens, length = encode(cut)
        if length > limit:
            report.drop(
                f"example {number}", f"has {length} tokens, more than max_tokens or the model's context, {limit}"
            )
            continue
        report.cut += prompt != example.prompt
        report.lengths.append(length)
        found.texts.append(cut)
        found.tokens.append(tokens)
    if not found.tokens:
        raise DataError(
            f"{role}: none of {len(examples)} fits: {report.dropped[-1]}; raise max_tokens, or cut prompts with "
            "max_prompt_tokens"
        )
    return found
