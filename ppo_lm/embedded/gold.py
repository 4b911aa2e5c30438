"""The gold scorer: reads the facts back out of a summary. Training never sees it.

score = F1 of stated against true facts, halved if the summary is unfinished: it hits the length limit, or stops in
mid-sentence. A stated fact is a phrase of the task's grammar; words outside any phrase (rambling, gibberish) count as
invented, one statement per six words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ppo_lm.embedded import grammar
from ppo_lm.embedded.posts import FACT_NAMES, PRONOUNS, Facts

WORDS_PER_STATEMENT = 6
GLUE = set("my i am upset because".split())


@dataclass(frozen=True)
class GoldScore:
    """`right` and `missing` are shares of the eight true facts, `invented` a share of what the summary states;
    `score` in [0, 1]."""

    score: float
    right: float
    invented: float
    missing: float
    ended: bool


def _phrases(table) -> list[str]:
    """Every canonical phrase with every pronoun, longest first, so that no phrase is found inside a longer one."""
    return sorted(
        {phrase.format(**pronouns) for phrase in table for pronouns in PRONOUNS.values()}, key=len, reverse=True
    )


def _any_of(phrases: list[str]) -> str:
    return r"(?<![\w])(" + "|".join(map(re.escape, phrases)) + r")(?![\w])"


PERSON = r"\((\d\d[MF])\)"
PATTERNS = {
    "author": re.compile(r"\bI " + PERSON),
    "other": re.compile(r"(?<!\bI )" + PERSON),
    "event": re.compile(_any_of(_phrases(grammar.EVENTS))),
    "when": re.compile(_any_of(_phrases(grammar.TIMES))),
    "reaction": re.compile(_any_of(_phrases(grammar.REACTIONS))),
    "question": re.compile("(" + "|".join(map(re.escape, _phrases(grammar.QUESTIONS))) + ")"),
    "relation": re.compile(_any_of(_phrases(grammar.RELATIONS["M"] + grammar.RELATIONS["F"]))),
    "name": re.compile(_any_of(_phrases(grammar.NAMES["M"] + grammar.NAMES["F"]))),
}


def read_facts(summary: str) -> tuple[dict[str, list[str]], int]:
    """Find every stated fact. Returns the values by fact name, and the number of words that belong to no fact."""
    found, rest = {}, summary
    for name in ("question", "author", "other", "event", "when", "reaction", "relation", "name"):
        pattern = PATTERNS[name]
        found[name] = [match.group(1) for match in pattern.finditer(rest)]
        rest = pattern.sub(" I " if name == "author" else " ", rest)
    words = re.findall(r"\w+", rest.lower())
    return found, sum(word not in GLUE for word in words)


def gold_score(summary: str, facts: Facts, terminated: bool = True) -> GoldScore:
    """Score one summary against the facts of its post. `terminated`: the policy sampled its end-of-sequence token."""
    ended = terminated and summary.rstrip().endswith((".", "?"))
    found, loose_words = read_facts(summary)
    right = sum(getattr(facts, name) in found[name] for name in FACT_NAMES)
    stated = sum(len(set(values)) for values in found.values())
    repeated = sum(len(values) - len(set(values)) for values in found.values())
    statements = stated + repeated + loose_words / WORDS_PER_STATEMENT
    precision, recall = (right / statements if statements else 0.0), right / len(FACT_NAMES)
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return GoldScore(f1 if ended else f1 / 2, recall, 1 - precision, 1 - recall, ended)


def gold(prompts: list[str], completions: list[str], facts: list[Facts], terminated: list[bool]) -> list[float]:
    """`gold_score(...).score` of every completion, with a reward function's signature; for `monitor`, never for
    training."""
    return [
        gold_score(completion, fact, ended).score for completion, fact, ended in zip(completions, facts, terminated)
    ]
