import random

import pytest

from ppo_lm.embedded import grammar
from ppo_lm.embedded.gold import gold, gold_score, read_facts
from ppo_lm.embedded.posts import FACT_NAMES, Facts, generate_posts
from ppo_lm.embedded.summaries import Draft, write_demonstrations, write_preferences

pytestmark = pytest.mark.fast

FACTS = Facts("24F", "boyfriend", "Jake", "26M", "read my messages", "last week", "moved out", "Should I forgive him?")
PERFECT = " I (24F) moved out because my boyfriend Jake (26M) read my messages last week. Should I forgive him?"


def test_posts_are_distinct_seeded_and_too_many_to_memorise():
    posts = generate_posts(5000, seed=0)
    assert len({post.prompt for post in posts}) == 5000
    assert generate_posts(5000, seed=0) == posts
    assert not {post.prompt for post in generate_posts(5000, seed=1)} & {post.prompt for post in posts}
    for post in posts[:50]:
        assert (
            post.prompt.startswith("SUBREDDIT: r/")
            and " TITLE: " in post.prompt
            and " POST: " in post.prompt
            and post.prompt.endswith(" TL;DR:")
        )
        for stated in (post.facts.relation, post.facts.name, post.facts.author[:-1], post.facts.other[:-1]):
            assert stated in post.prompt


def test_every_true_summary_scores_1():
    rng = random.Random(0)
    for post in generate_posts(2000, seed=2):
        result = gold_score(Draft(post.facts, template=rng.randint(0, 1)).write().text, post.facts)
        assert (result.score, result.right, result.invented, result.missing, result.ended) == (1.0, 1.0, 0.0, 0.0, True)


@pytest.mark.parametrize("name", FACT_NAMES)
def test_a_wrong_fact_costs_an_eighth_of_right_and_counts_as_invented(name):
    rng = random.Random(1)
    for post in generate_posts(200, seed=3):
        draft = Draft(post.facts, template=rng.randint(0, 1)).with_wrong_fact(name, rng)
        assert getattr(draft.facts, name) != getattr(post.facts, name)
        result = gold_score(draft.write().text, post.facts)
        assert result.right == 7 / 8
        assert result.invented == pytest.approx(1 / 8)
        assert result.score == pytest.approx(7 / 8)


@pytest.mark.parametrize(
    ("summary", "right", "invented", "score"),
    [
        (PERFECT, 1, 0, 1),
        (
            PERFECT.replace(" Should I forgive him?", ""),
            7 / 8,
            0,
            2 * (7 / 8) / (15 / 8),
        ),  # one missing: precision 1, recall 7/8
        (PERFECT.replace("moved out", "got drunk"), 7 / 8, 1 / 8, 7 / 8),
        (PERFECT.rstrip("?"), 7 / 8, None, None),  # stops inside its question: not ended
        (PERFECT + " Should I forgive him?", 1, 1 / 9, 2 * (8 / 9) / (17 / 9)),  # said twice
        (" Life is strange and people are strange.", 0, 1, 0),  # seven words of rambling
        ("", 0, 1, 0),
    ],
)
def test_gold_by_hand(summary, right, invented, score):
    result = gold_score(summary, FACTS)
    assert result.right == pytest.approx(right)
    assert result.missing == pytest.approx(1 - right)
    if invented is not None:
        assert result.invented == pytest.approx(invented)
        assert result.score == pytest.approx(score)
    else:
        assert not result.ended and result.score < 0.5


def test_an_unfinished_summary_scores_half():
    assert gold_score(PERFECT, FACTS, terminated=False).score == 0.5
    assert gold([" p"], [PERFECT], facts=[FACTS], terminated=[False]) == [0.5]


def test_rambling_lowers_the_score_with_every_six_words():
    with_filler = gold_score(Draft(FACTS, fillers=((1, grammar.FILLER[0]),)).write().text, FACTS)
    assert with_filler.right == 1 and 0.8 < with_filler.score < 0.95
    assert (
        gold_score(Draft(FACTS, fillers=((1, grammar.FILLER[0]), (2, grammar.FILLER[1]))).write().text, FACTS).score
        < with_filler.score
    )


def test_no_phrase_is_part_of_another():
    for event in grammar.EVENTS:
        found, loose = read_facts(f"my boss Jake (26M) {event}")
        assert found["event"] == [event] and loose == 0


def test_human_summaries_are_flawed_and_preferences_follow_the_flaws():
    posts = generate_posts(2000, seed=4)
    scores = [gold_score(s.text, p.facts).score for s, p in zip(write_demonstrations(posts, 0), posts)]
    assert 0.55 < sum(scores) / len(scores) < 0.65
    preferences = write_preferences(posts, seed=0)
    agree = sum(p.chosen.flaws < p.rejected.flaws for p in preferences) / len(preferences)
    assert 0.95 < agree < 1.0
    assert preferences == write_preferences(posts, seed=0) != write_preferences(posts, seed=1)
