"""The prompts of a run, read again from where it read them, as other programs take them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from ppo_lm.config import PPOConfig
from ppo_lm.data import DataReport, PromptSet
from ppo_lm.data.examples import Message, Prompt
from ppo_lm.data.fitting import fit_prompts
from ppo_lm.errors import DataError
from ppo_lm.models import BaseModel
from ppo_lm.run.identity import identify_prompts


class Row(NamedTuple):
    """A prompt, cut if the run cut it. `given`: JSON for reward functions: the prompt, its columns, and the text that
    its tokens decode to. `start`: the start token that the tokenizer puts before a text, if it does."""

    prompt: Prompt
    given: str = ""
    start: str = ""

    @property
    def messages(self) -> list[Message]:
        """The prompt as a conversation."""
        return [{"role": "user", "content": self.prompt}] if isinstance(self.prompt, str) else self.prompt

    @property
    def whole(self) -> Prompt:
        """A conversation, or the whole text that is tokenised."""
        return self.start + self.prompt if isinstance(self.prompt, str) else self.prompt


class Prompts(NamedTuple):
    """Those that a run trained on and those that it held out, with their token ids. `chat`: they are conversations
    rather than texts."""

    train: PromptSet
    held_out: PromptSet
    chat: bool

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, [*self.train.require_ids(), *self.held_out.require_ids()]))


def split_again(
    loaded: PromptSet, report: DataReport, base: BaseModel, config: PPOConfig, identity: Mapping[str, object]
) -> Prompts:
    """Fit the prompts to the model and split them, as the run did. `identity`: what the run recorded of itself (see
    `run.identity`). Raises `DataError` if they have changed since, or mix texts and conversations."""
    fitted, _ = fit_prompts(
        loaded, report, base, max_prompt_tokens=config.max_prompt_tokens, max_new_tokens=config.max_new_tokens
    )
    train, held_out = fitted.split(config.eval_prompts, config.seed)
    now = identify_prompts(train, held_out)
    changed = [name for name, value in now.items() if identity.get(name, value) != value]
    if changed:
        raise DataError(
            f"prompts {config.prompts!r}: {', '.join(changed)} changed since the run; restore the data as it was"
        )
    kinds = {isinstance(prompt, str) for prompt in fitted.prompts}
    if len(kinds) > 1:
        raise DataError(
            f"prompts {config.prompts!r} are texts and conversations mixed, for which other programs have no format; "
            "make all of them the one or the other, and train again"
        )
    return Prompts(train, held_out, kinds == {False})


def plain_columns(prompts: PromptSet) -> dict[str, list]:
    """The columns that JSON can hold."""
    return {name: values for name, values in prompts.columns.items() if _fits_json(values)}


def rows_of(prompts: PromptSet, tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Each prompt with its plain columns."""
    columns, start, rows = plain_columns(prompts), start_of_texts(tokenizer), []
    for row, (prompt, ids) in enumerate(zip(prompts.prompts, prompts.require_ids(), strict=True)):
        own = {name: values[row] for name, values in columns.items()}
        given = {"prompt": prompt, "columns": own, "decoded": tokenizer.decode(ids)}
        rows.append(Row(prompt, json.dumps(given), start))
    return rows


def count_read_differently(prompts: PromptSet, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many prompts have other token ids if the texts of control tokens in them become control tokens, as in other
    programs."""
    rows = zip(rows_of(prompts, tokenizer), prompts.require_ids(), strict=True)
    return sum(_encode(tokenizer, row.whole) != ids for row, ids in rows)


def count(some: int, prompts: PromptSet) -> str:
    """For messages."""
    return f"{some:,} of {len(prompts):,} prompts"


def start_of_texts(tokenizer: PreTrainedTokenizerBase) -> str:
    """The start token, if the tokenizer puts it before a text; else nothing."""
    adds_it = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return str(tokenizer.bos_token) if adds_it else ""


def _encode(tokenizer: Any, prompt: Prompt) -> list[int]:
    if not isinstance(prompt, str):
        prompt = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]


def _fits_json(values: Sequence[object]) -> bool:
    try:
        json.dumps(values)
    except (TypeError, ValueError):
        return False
    return True
