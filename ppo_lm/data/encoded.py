"""The examples that fit, with their token ids; shared by SFT, reward and value modelling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from ppo_lm.data.encoding import encode_pair, fit_prompt
from ppo_lm.data.examples import Demonstration, Preference, Prompt
from ppo_lm.data.prompts import split_rows
from ppo_lm.data.report import DataReport
from ppo_lm.errors import DataError

if TYPE_CHECKING:
    from ppo_lm.models import BaseModel

Example = TypeVar("Example", bound=Demonstration | Preference)
Tokens = TypeVar("Tokens")


@dataclass(frozen=True)
class Encoded(Generic[Example, Tokens]):
    """Examples (demonstrations or preferences, with their prompts cut), their token ids, and their prompts as they were
    given, row by row."""

    texts: list[Example]
    tokens: list[Tokens]
    given: list[Prompt]

    def select(self, rows: list[int]) -> Encoded[Example, Tokens]:
        """The examples at `rows`, in that order."""
        return Encoded(
            [self.texts[row] for row in rows], [self.tokens[row] for row in rows], [self.given[row] for row in rows]
        )

    def split(
        self, held_out: int, seed: int, report: DataReport
    ) -> tuple[Encoded[Example, Tokens], Encoded[Example, Tokens]]:
        """Split into (training, held out) with `split_rows`, and count both in the report."""
        prompts = [str(example.prompt) for example in self.texts]
        train, test = split_rows(prompts, held_out, seed)
        report.describe_split([prompts[row] for row in train], [prompts[row] for row in test], held_out)
        return self.select(train), self.select(test)


@dataclass(frozen=True)
class EncodedDemonstration:
    """Token ids of a prompt and its completion (including EOS, if it ended)."""

    prompt_ids: list[int]
    completion_ids: list[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


EncodedDemonstrations = Encoded[Demonstration, EncodedDemonstration]


def encode_demonstrations(
    base: BaseModel,
    demonstrations: Sequence[Demonstration],
    report: DataReport,
    *,
    max_prompt_tokens: int,
    max_tokens: int,
    empty_prompts: bool = True,
) -> EncodedDemonstrations:
    """Encode every demonstration that fits into `max_tokens` and the model's context; with `empty_prompts` false, those
    with a prompt of no tokens are dropped too. Raises `DataError` if none is left."""

    def encode(demonstration: Demonstration) -> tuple[EncodedDemonstration, int]:
        prompt, completion = demonstration.prompt, demonstration.completion
        tokens = EncodedDemonstration(*encode_pair(base, prompt, completion))
        if not (tokens.prompt_ids or empty_prompts):
            raise DataError("has an empty prompt, so there is no state to value")
        return tokens, len(tokens)

    return encode_all(
        demonstrations,
        base,
        encode,
        report,
        role="demonstrations",
        max_prompt_tokens=max_prompt_tokens,
        limit=min(max_tokens, base.context_length),
    )


def encode_all(
    examples: Sequence[Example],
    base: BaseModel,
    encode: Callable[[Example], tuple[Tokens, int]],
    report: DataReport,
    *,
    role: str,
    max_prompt_tokens: int,
    limit: int,
) -> Encoded[Example, Tokens]:
    """Cut every prompt and encode every example; `encode` returns its token ids and their number. Examples over
    `limit`, and those whose prompt cannot be cut, are dropped and reported. Raises `DataError` if none is left."""
    found: Encoded[Example, Tokens] = Encoded([], [], [])
    for row, example in enumerate(examples):
        report.look_at(base, example.prompt, vars(example))
        try:
            prompt = fit_prompt(base, example.prompt, max_prompt_tokens)
            if prompt is None:
                raise DataError(f"has no sentence that ends within max_prompt_tokens {max_prompt_tokens}")
            cut = replace(example, prompt=prompt)
            tokens, length = encode(cut)
        except DataError as error:
            report.drop(row, str(error))
            continue
        if length > limit:
            report.drop(row, f"has {length} tokens, more than max_tokens or the model's context, {limit}")
            continue
        report.cut += prompt != example.prompt
        report.lengths.append(length)
        found.texts.append(cut)
        found.tokens.append(tokens)
        found.given.append(example.prompt)
    if not found.tokens:
        raise DataError(
            f"{role}: none of the {len(examples)} examples can be used: {report.dropped[-1]}; give others, raise "
            "max_tokens, or cut prompts with max_prompt_tokens"
        )
    return found
