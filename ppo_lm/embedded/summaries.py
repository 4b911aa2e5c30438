"""Summaries as people write them: some right, many flawed; and which of two a reader prefers."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from ppo_lm.embedded import grammar
from ppo_lm.embedded.posts import FACT_NAMES, Facts, Post, redraw_fact

WRONG_FACT = 0.1  # chance that a stated fact is wrong
LEFT_OUT = {"when": 0.5, "reaction": 0.5, "question": 0.6}  # chance that a fact is missing
RAMBLES = 0.6  # chance of each of two filler sentences
NO_ENDING = 0.25  # chance that the text stops in the middle of a sentence
READER_NOISE = 0.35  # temperature of the reader's preference, in flaws

TEMPLATES = [
    ["My {relation} {name} ({other}) {event}[ {when}].", "I ({author})[ {reaction}| am upset]."],
    ["I ({author})[ {reaction}| am upset] because my {relation} {name} ({other}) {event}[ {when}]."],
]


@dataclass(frozen=True)
class Summary:
    """A completion, with its leading space, and how many flaws were put into it."""

    text: str
    flaws: int


def _fill(template: str, facts: Facts, left_out: set[str]) -> str:
    """Fill `{fact}`; `[ {fact}| else]` shows its second half, or nothing, when the fact is left out."""
    out, rest = "", template
    while "[" in rest:
        before, _, rest = rest.partition("[")
        choice, _, rest = rest.partition("]")
        stated, _, otherwise = choice.partition("|")
        name = stated.strip(" {}")
        out += before + (otherwise if name in left_out else stated)
    return (out + rest).format(**dict(facts))


def write_summary(facts: Facts, rng: random.Random, *, left_out: set[str] = frozenset(), fillers: int = 0) -> str:
    """Write one summary of `facts` in one of the task's styles, with a leading space."""
    sentences = [_fill(part, facts, left_out) for part in rng.choice(TEMPLATES)]
    for filler in rng.sample(grammar.FILLER, fillers):
        sentences.insert(rng.randint(1, len(sentences)), filler)
    if "question" not in left_out:
        sentences.append(facts.question)
    return " " + " ".join(sentences)


def write_human_summary(post: Post, rng: random.Random) -> Summary:
    """A summary with the flaws people make: wrong facts, missing facts, rambling, no ending."""
    facts, flaws = post.facts, 0
    for name in FACT_NAMES:
        if rng.random() < WRONG_FACT:
            facts, flaws = redraw_fact(facts, name, rng), flaws + 1
    left_out = {name for name, chance in LEFT_OUT.items() if rng.random() < chance}
    fillers = sum(rng.random() < RAMBLES for _ in range(2))
    text = write_summary(facts, rng, left_out=left_out, fillers=fillers)
    flaws += len(left_out) + fillers
    if rng.random() < NO_ENDING:
        words = text.split(" ")
        text, flaws = " ".join(words[: rng.randint(len(words) // 2, len(words) - 1)]).rstrip(".?"), flaws + 2
    return Summary(text, flaws)


@dataclass(frozen=True)
class Preference:
    """Two summaries of one post, and the one a reader chose."""

    prompt: str
    chosen: Summary
    rejected: Summary


def write_preferences(posts: list[Post], seed: int) -> list[Preference]:
    """One comparison a post, of two summaries with different numbers of flaws. The reader prefers fewer flaws, with
    Bradley–Terry noise: P(first chosen) = sigmoid((flaws_second − flaws_first) / READER_NOISE)."""
    rng = random.Random(f"preferences {seed}")
    preferences = []
    for post in posts:
        first, second = write_human_summary(post, rng), write_human_summary(post, rng)
        while first.flaws == second.flaws:
            second = write_human_summary(post, rng)
        first_wins = rng.random() < 1 / (1 + math.exp((first.flaws - second.flaws) / READER_NOISE))
        chosen, rejected = (first, second) if first_wins else (second, first)
        preferences.append(Preference(post.prompt, chosen, rejected))
    return preferences


def write_demonstrations(posts: list[Post], seed: int) -> list[Summary]:
    """One human summary a post, for supervised fine-tuning."""
    rng = random.Random(f"demonstrations {seed}")
    return [write_human_summary(post, rng) for post in posts]
