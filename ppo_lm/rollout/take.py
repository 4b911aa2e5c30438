"""Which prompts to read next."""

from __future__ import annotations


def take(waiting: list[int], most: int, tokens: int, lengths: list[int]) -> list[int]:
    """Remove rows from the end of `waiting`: at most `most`, with at most `tokens` tokens in total, but at least
    one."""
    taken = [waiting.pop()]
    while waiting and len(taken) < most and (tokens := tokens - lengths[taken[-1]]) >= lengths[waiting[-1]]:
        taken.append(waiting.pop())
    return taken
