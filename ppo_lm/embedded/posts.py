"""Reddit-style posts with known facts, generated from a seed."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, fields, replace

from ppo_lm.embedded import grammar

PRONOUNS = {"M": {"they": "he", "them": "him", "their": "his"}, "F": {"they": "she", "them": "her", "their": "her"}}


@dataclass(frozen=True)
class Facts:
    """What a post says, in canonical form; a summary is judged fact by fact.

    Example: `Facts("24F", "boyfriend", "Jake", "26M", "read my messages", "last week", "moved out", "Should I forgive
    him?")`
    """

    author: str  # age and gender of the writer, "24F"
    relation: str  # of the other person to the writer
    name: str
    other: str  # age and gender of the other person, "26M"
    event: str
    when: str
    reaction: str
    question: str

    def __iter__(self):
        return iter(asdict(self).items())


@dataclass(frozen=True)
class Post:
    """A post and its facts. `prompt` is the text up to and including `TL;DR:`."""

    prompt: str
    facts: Facts


FACT_NAMES = tuple(field.name for field in fields(Facts))


def _someone(rng: random.Random) -> str:
    return f"{rng.randint(18, 59)}{rng.choice('MF')}"


def draw_facts(rng: random.Random) -> Facts:
    """Draw the facts of one post, each uniformly from its table."""
    other = _someone(rng)
    pronouns = PRONOUNS[other[-1]]
    return Facts(
        author=_someone(rng),
        relation=rng.choice(grammar.RELATIONS[other[-1]]),
        name=rng.choice(grammar.NAMES[other[-1]]),
        other=other,
        event=rng.choice(list(grammar.EVENTS)),
        when=rng.choice(grammar.TIMES),
        reaction=rng.choice(list(grammar.REACTIONS)).format(**pronouns),
        question=rng.choice(list(grammar.QUESTIONS)).format(**pronouns),
    )


def redraw_fact(facts: Facts, name: str, rng: random.Random) -> Facts:
    """The same facts, with `name` changed to a wrong value that still fits the person."""
    wrong = getattr(facts, name)
    while wrong == getattr(facts, name):
        candidate = draw_facts(rng)
        if name == "other":
            wrong = candidate.other[:-1] + facts.other[-1]
        elif candidate.other[-1] == facts.other[-1]:
            wrong = getattr(candidate, name)
    return replace(facts, **{name: wrong})


def _post_form(table: dict[str, list[str]], canonical: str, pronouns: dict[str, str], rng: random.Random) -> str:
    forms = next(forms for key, forms in table.items() if key.format(**pronouns) == canonical)
    return rng.choice(forms).format(**pronouns)


def write_post(facts: Facts, rng: random.Random) -> Post:
    """Write a post that states every fact once, in its own words."""
    pronouns = PRONOUNS[facts.other[-1]]
    words = {
        **pronouns,
        "They": pronouns["they"].capitalize(),
        "name": facts.name,
        "Name": facts.name,
        "relation": facts.relation,
        "age": facts.other[:-1],
        "gender": facts.other[-1],
        "my_age": facts.author[:-1],
        "my_gender": facts.author[-1],
        "when": facts.when,
        "When": facts.when[0].upper() + facts.when[1:],
        "n": rng.randint(2, 12),
        "event": _post_form(grammar.EVENTS, facts.event, pronouns, rng),
        "reaction": _post_form(grammar.REACTIONS, facts.reaction, pronouns, rng),
    }
    sentences = [
        rng.choice(grammar.EVENT_SENTENCES).format(**words),
        rng.choice(grammar.REACTION_SENTENCES).format(**words),
        _post_form(grammar.QUESTIONS, facts.question, pronouns, rng),
    ]
    if rng.random() < 0.5:
        sentences.insert(0, rng.choice(grammar.BACKGROUND).format(**words))
    if rng.random() < 0.3:
        sentences.insert(0, rng.choice(grammar.OPENINGS))
    title = rng.choice(grammar.TITLES).format(**words)
    prompt = f"SUBREDDIT: r/{rng.choice(grammar.SUBREDDITS)} TITLE: {title} POST: {' '.join(sentences)} TL;DR:"
    return Post(prompt, facts)


def generate_posts(count: int, seed: int) -> list[Post]:
    """Generate `count` distinct posts. The same seed gives the same posts on every machine."""
    rng = random.Random(f"posts {seed}")
    posts: dict[str, Post] = {}
    while len(posts) < count:
        post = write_post(draw_facts(rng), rng)
        posts[post.prompt] = post
    return list(posts.values())
