"""Tokens as the pieces of text that they are in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what a part of a character's bytes decodes to
CONTEXT = 4  # tokens before a piece that its decoding may depend on, such as a space that a tokenizer drops


def token_pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text that each token adds, special tokens included; together, the decoded text. A character that several
    tokens spell is the text of the last one, the others add none."""
    pieces, start, done = [], 0, 0  # the text up to token `done` is out; the next piece is decoded from token `start`
    for end in range(1, len(ids) + 1):
        before, after = _decode(tokenizer, ids[start:done]), _decode(tokenizer, ids[start:end])
        if after.endswith(INCOMPLETE) and end < len(ids) and end - done < CONTEXT:
            pieces.append("")
            continue
        pieces.append(after[len(before) :])
        start, done = max(end - CONTEXT, 0), end
    return pieces


def vocabulary(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> dict[int, str]:
    """The text of each token on its own."""
    return {token: _decode(tokenizer, [token]) for token in sorted(set(ids)) if token >= 0}


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return cast("str", tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
