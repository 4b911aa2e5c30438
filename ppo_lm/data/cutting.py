"""Shorten a prompt that is too long: cut at the end of a sentence or paragraph, never inside a word (2403.17031, detail
2)."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable

from ppo_lm.data.examples import Prompt, is_token_ids

SENTENCE_END = re.compile(r"[.!?…][\"')\]]*(?=\s)|(?<=\S)(?=\n)")
LONGEST_CUE = 20  # words; anything longer is an unfinished sentence
ENDS_LIKE_A_SENTENCE = re.compile(r"[.!?…][\"')\]]*\s*$")


def cut_text(text: str, fits: Callable[[str], bool]) -> str | None:
    """The longest prefix of `text` that ends at the end of a sentence and fits, followed by the closing cue (what comes
    after the last sentence, such as "TL;DR:"). None if not even one sentence fits."""
    if fits(text):
        return text
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    if not ends:
        return None
    candidates = [end for end in ends if text[:end].strip()]
    cue = text[ends[-1] :]
    is_cue = not ENDS_LIKE_A_SENTENCE.search(text) and len(cue.split()) <= LONGEST_CUE
    for ending in (cue, "") if is_cue else ("",):
        place = bisect_right(candidates, False, key=lambda end: not fits(text[:end] + ending))
        if place:
            return text[: candidates[place - 1]] + ending
    return None


def cut_prompt(prompt: Prompt, fits: Callable[[Prompt], bool]) -> Prompt | None:
    """`cut_text` for a text, or for the last turn of a conversation. Token ids are never cut."""
    if isinstance(prompt, str):
        return cut_text(prompt, fits)
    if is_token_ids(prompt):
        return prompt if fits(prompt) else None
    *before, last = prompt
    content = cut_text(last["content"], lambda text: fits([*before, {**last, "content": text}]))
    return None if content is None else [*before, {**last, "content": content}]
