"""Summaries as people write them: some right, many flawed; and which of two a reader prefers."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from ppo_lm.embedded import grammar
from ppo_lm.embedded.posts import FACT_NAMES, Facts, Post, redraw_fact

WRONG_FACT = 0.03  # chance that a stated fact is wrong
LEFT_OUT = {"when": 0.5, "reaction": 0.5, "question": 0.6}  # chance that a fact is missing
RAMBLES = 0.75  # chance of each of two filler sentences
WRONG_FLAWS = 2  # readers mind a wrong fact as much as two missing ones
NO_ENDING = 0.35  # chance that the text stops in the middle of a sentence
NO_ENDING_FLAWS = 2
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


@dataclass(frozen=True)
class Draft:
    """What a writer has in mind: the facts as they believe them, what they leave out, where they ramble, whether they
    stop early."""

    facts: Facts
    wrong: frozenset[str] = frozenset()  # names of the facts they got wrong
    left_out: frozenset[str] = frozenset()
    template: int = 0  # which of TEMPLATES
    fillers: tuple[tuple[int, str], ...] = ()  # (place among the sentences, sentence)
    stops_after: int | None = None  # words; None: it is finished

    def write(self) -> Summary:
        """The text of the draft, and its flaws."""
        sentences = [_fill(part, self.facts, self.left_out) for part in TEMPLATES[self.template]]
        for place, filler in self.fillers:
            sentences.insert(place, filler)
        if "question" not in self.left_out:
            sentences.append(self.facts.question)
        text = " " + " ".join(sentences)
        flaws = WRONG_FLAWS * len(self.wrong) + len(self.left_out) + len(self.fillers)
        if self.stops_after is None:
            return Summary(text, flaws)
        return Summary(" ".join(text.split(" ")[: self.stops_after]).rstrip(".?"), flaws + NO_ENDING_FLAWS)

    def with_wrong_fact(self, name: str, rng: random.Random) -> Draft:
        """The same draft, with the fact `name` wrong."""
        return replace(self, facts=redraw_fact(self.facts, name, rng), wrong=self.wrong | {name})


def _fill(template: str, facts: Facts, left_out: frozenset[str]) -> str:
    """Fill `{fact}`; `[ {fact}| else]` shows its second half, or nothing, when the fact is left out."""
    out, rest = "", template
    while "[" in rest:
        before, _, rest = rest.partition("[")
        choice, _, rest = rest.partition("]")
        stated, _, otherwise = choice.partition("|")
        name = stated.strip(" {}")
        out += before + (otherwise if name in left_out else stated)
    return (out + rest).format(**dict(facts))


def draw_draft(post: Post, rng: random.Random) -> Draft:
    """A draft with the flaws people make: wrong facts, missing facts, rambling, no ending."""
    draft = Draft(post.facts)
    for name in FACT_NAMES:
        if rng.random() < WRONG_FACT:
            draft = draft.with_wrong_fact(name, rng)
    left_out = frozenset(name for name, chance in LEFT_OUT.items() if rng.random() < chance)
    ramblings = sum(rng.random() < RAMBLES for _ in range(2))
    template = rng.choice(range(len(TEMPLATES)))
    sentences = len(TEMPLATES[template])
    fillers = tuple(
        (rng.randint(1, sentences + i), filler) for i, filler in enumerate(rng.sample(grammar.FILLER, ramblings))
    )
    draft = replace(draft, left_out=left_out, template=template, fillers=fillers)
    if rng.random() < NO_ENDING:
        words = len(draft.write().text.split(" "))
        draft = replace(draft, stops_after=rng.randint(words // 2, words - 1))
    return draft


@dataclass(frozen=True)
class Preference:
    """Two summaries of one post, and the one a reader chose."""

    prompt: str
    chosen: Summary
    rejected: Summary


def write_preferences(posts: list[Post], seed: int) -> list[Preference]:
    """One comparison per post, between two summaries by different writers. The reader prefers fewer flaws, with
    Bradley–Terry noise: P(first chosen) = sigmoid((flaws_second − flaws_first) / READER_NOISE)."""
    rng = random.Random(f"preferences {seed}")
    preferences = []
    for post in posts:
        first = draw_draft(post, rng)
        second = draw_draft(post, rng)
        while first.write().flaws == second.write().flaws or first.write().text == second.write().text:
            second = draw_draft(post, rng)
        one, other = first.write(), second.write()
        one_wins = rng.random() < 1 / (1 + math.exp((one.flaws - other.flaws) / READER_NOISE))
        chosen, rejected = (one, other) if one_wins else (other, one)
        preferences.append(Preference(post.prompt, chosen, rejected))
    return preferences


def write_demonstrations(posts: list[Post], seed: int) -> list[Summary]:
    """One human summary per post, for supervised fine-tuning."""
    rng = random.Random(f"demonstrations {seed}")
    return [draw_draft(post, rng).write() for post in posts]
