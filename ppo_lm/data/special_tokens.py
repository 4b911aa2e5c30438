"""Texts to token ids, so that data cannot forge the turns of a conversation or the end of a text.

The text of a control token, such as ``<|im_end|>``, is ordinary text when it comes from data. A text is encoded with
`split_special_tokens`. In a conversation, the template's own control tokens have to stay: if the contents have any, the
template is rendered with a placeholder for each, the rendered text is encoded piece by piece as usual, and each
placeholder becomes the ordinary tokens of the text that it stands for. A tokenizer splits its input at control tokens
before it does anything else, so all other tokens are those of the plain way, which is taken if there is nothing to
protect. Tokens that are added but not special, such as ``<think>`` in some models, are tokens in data too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from ppo_lm.data.examples import Message
from ppo_lm.data.sources import texts_in


def encode_text(
    tokenizer: PreTrainedTokenizerBase, text: str, *, allow_special_tokens: bool = False, **options: Any
) -> list[int]:
    """The token ids of a text, without control tokens for their texts, unless they are allowed. `options` are the
    tokenizer's."""
    options |= {"split_special_tokens": not allow_special_tokens, "verbose": False}  # lengths are checked elsewhere
    return tokenizer(text, **options)["input_ids"]


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[Message],
    *,
    allow_special_tokens: bool = False,
    add_generation_prompt: bool = False,
) -> list[int]:
    """The token ids of a conversation as the chat template writes it. Its control tokens are the template's, unless
    those in the messages are allowed. Raises whatever the template raises."""
    found = set() if allow_special_tokens else find_special_tokens(tokenizer, messages)
    placeholders = _placeholders(messages, found)
    hidden = [{**message, "content": _replace(message["content"], placeholders)} for message in messages]
    written = tokenizer.apply_chat_template(hidden, tokenize=False, add_generation_prompt=add_generation_prompt)
    originals = {placeholder: text for text, placeholder in placeholders.items()}
    ids: list[int] = []
    for piece in _split(cast("str", written), originals):  # which is anything else only for tokenize=True
        text = originals.get(piece, piece)
        is_content = piece in originals
        ids += encode_text(tokenizer, text, allow_special_tokens=not is_content, add_special_tokens=False)
    return ids


def find_special_tokens(tokenizer: PreTrainedTokenizerBase, value: object) -> set[str]:
    """The texts of control tokens in the texts of a plain value: a text, a conversation, or a record."""
    pattern = _pattern(tokenizer)
    return {match for text in texts_in(value) for match in pattern.findall(text)}


@lru_cache(16)
def _pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return _any_of(added | set(tokenizer.all_special_tokens))


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the texts, the longest if there are several; nothing if there are none."""
    return re.compile("|".join(map(re.escape, sorted(filter(None, texts), key=len, reverse=True))) or r"(?!)")


def _placeholders(messages: list[Message], special: set[str]) -> dict[str, str]:
    """A word for each control token's text that is in no message, and that no template changes."""
    content, mark = " ".join(texts_in(messages)), "CONTROL"
    while mark in content:
        mark += "X"
    return {text: f"{mark}{number}END" for number, text in enumerate(sorted(special))}


def _replace(text: str, replacements: dict[str, str]) -> str:
    return _any_of(replacements).sub(lambda match: replacements[match[0]], text)


def _split(text: str, separators: Iterable[str]) -> list[str]:
    """The pieces of a text, separators included, without empty ones."""
    pattern = _any_of(separators)
    return [piece for piece in re.split(f"({pattern.pattern})", text) if piece]
