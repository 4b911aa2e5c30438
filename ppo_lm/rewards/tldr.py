"""The default reward: an automated scorer for TL;DR summaries.

It does not understand language; it measures four properties that good TL;DRs share, and is easy to fool. Use it to see
the loop run; to train a better model, use a reward model or your own function.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from ppo_lm.data.examples import Message, text_of

TARGET_RATIO = (0.08, 0.35)  # summary words / post words, the range without a penalty
MIN_WORDS = 5
WORD = re.compile(r"[a-z0-9']+")
FUNCTION_WORDS = frozenset(
    (
        "a an and are as at be but by for from had has have he her his i in is it me my not "
        "of on or our she so that the their them they this to was we were what when which who will with you your"
    ).split()
)


def tldr_score(prompt: str, completion: str) -> float:
    """The mean of four parts, each in [0, 1], mapped to [-1, 1]:

    faithful: share of the summary's content words that occur in the post. brief: 1 from `TARGET_RATIO[0]` (and
    `MIN_WORDS`) to `TARGET_RATIO[1]` of the post's words, falling linearly to 0 at no words and at the post's own
    length. fresh: share of word pairs that do not repeat an earlier one. complete: ends like a sentence.
    """
    post, summary = WORD.findall(prompt.lower()), WORD.findall(completion.lower())
    if not summary:
        return -1.0
    content = [word for word in summary if word not in FUNCTION_WORDS]
    faithful = sum(word in set(post) for word in content) / len(content) if content else 0.0
    pairs = list(itertools.pairwise(summary))
    fresh = len(set(pairs)) / len(pairs) if pairs else 1.0
    complete = float(completion.rstrip().endswith((".", "!", "?", '"')))
    return 2 * (faithful + _brief(len(summary), len(post)) + fresh + complete) / 4 - 1


def _brief(summary_words: int, post_words: int) -> float:
    low, high = TARGET_RATIO
    least, most = max(MIN_WORDS, low * post_words), max(MIN_WORDS, high * post_words)
    if summary_words < least:
        return summary_words / least
    if summary_words <= most:
        return 1.0
    return max(0.0, (post_words - summary_words) / (post_words - most)) if post_words > most else 0.0


def tldr_heuristics(prompts: Sequence[str | list[Message]], completions: Sequence[str | list[Message]]) -> list[float]:
    """`tldr_score` of every pair, as a reward function; the last turn of a conversation is the post."""
    return [tldr_score(text_of(prompt), text_of(completion)) for prompt, completion in zip(prompts, completions)]
