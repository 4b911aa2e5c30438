import math

import numpy
import pytest
import torch

from ppo_lm.errors import NumericalFault, RewardError
from ppo_lm.rewards import FunctionReward, load_reward, tldr_heuristics
from ppo_lm.rewards.tldr import tldr_score
from tests.conftest import opinions

pytestmark = pytest.mark.fast

PROMPTS, COMPLETIONS = ["p", "q"], ["one", "two words"]


@pytest.mark.parametrize(
    "scores", [[1, 2.5], (1, 2.5), numpy.array([1, 2.5]), torch.tensor([1, 2.5])], ids=lambda s: type(s).__name__
)
def test_any_list_of_numbers_is_taken(scores):
    assert opinions(FunctionReward(lambda prompts, completions: scores), PROMPTS, COMPLETIONS) == [1.0, 2.5]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.0], "returned 1 scores for 2 completions"),
        (["good", 1.0], "returned 'good' for completion 0"),
        ("0.5", "returned '0.5'; it must return a list of 2 numbers"),
        (0.5, "returned 0.5; it must return a list of 2 numbers"),
        (None, "returned None; it must return a list"),
    ],
)
def test_anything_else_is_reported_in_one_sentence_with_the_place(result, message):
    def judge(prompts, completions):
        return result

    with pytest.raises(RewardError, match=f"reward function judge {message}"):
        opinions(FunctionReward(judge), PROMPTS, COMPLETIONS)


@pytest.mark.parametrize(
    ("result", "message"),
    [([1.0, math.nan], r"nan for completion 1 of 2 \('two words'\)"), ([math.inf, 1.0], "inf for completion 0")],
)
def test_a_score_that_is_not_finite_is_a_numerical_fault(result, message):
    with pytest.raises(NumericalFault, match=f"returned {message}.*; it must return a finite number"):
        opinions(FunctionReward(lambda prompts, completions: result, name="judge"), PROMPTS, COMPLETIONS)


def test_a_function_that_raises_is_named_and_its_error_kept():
    def judge(prompts, completions):
        raise KeyError("lexicon")

    with pytest.raises(
        RewardError, match="reward judge raised KeyError on a batch of 2 responses: 'lexicon'"
    ) as caught:
        opinions(FunctionReward(judge), PROMPTS, COMPLETIONS)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_function_gets_the_columns_it_names_or_all_of_them():
    columns = {"facts": ["x", "y"], "terminated": [True, False]}
    assert opinions(FunctionReward(lambda prompts, completions: [0, 0]), PROMPTS, COMPLETIONS, columns) == [0, 0]
    ends = FunctionReward(lambda completions, terminated, **_: [float(t) for t in terminated])
    assert opinions(ends, PROMPTS, COMPLETIONS, columns) == [1, 0]
    seen = {}
    everything = FunctionReward(lambda **everything: seen.update(everything) or [0, 0])
    opinions(everything, PROMPTS, COMPLETIONS, columns)
    assert seen == {"prompts": PROMPTS, "completions": COMPLETIONS, **columns}


def test_a_function_that_needs_a_column_says_which():
    def judge(prompts, completions, facts, weight=1.0, *, terminated):
        return [0] * len(prompts)

    assert FunctionReward(judge).missing_columns(["other"]) == ["facts"]
    assert FunctionReward(judge).missing_columns(["facts"]) == []
    with pytest.raises(RewardError, match="reward 5 is not a function"):
        FunctionReward(5)


def test_a_file_may_use_dataclasses_and_import_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("BONUS = 2.0\n")
    file = tmp_path / "mine_with_dataclass.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom neighbour_of_mine import BONUS\n"
        "@dataclass\nclass Score:\n    value: float\n"
        "def score(completions):\n    return [Score(BONUS).value for _ in completions]\n"
    )
    assert opinions(load_reward(f"{file}:score"), PROMPTS, COMPLETIONS) == [2.0, 2.0]


def test_functions_load_from_a_module_and_from_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def length(prompts, completions):\n    return [len(c) for c in completions]\n")
    assert opinions(load_reward(f"{file}:length"), PROMPTS, COMPLETIONS) == [3, 9]
    found = opinions(load_reward("ppo_lm.rewards.tldr:tldr_heuristics"), PROMPTS, COMPLETIONS)
    assert found == tldr_heuristics(PROMPTS, COMPLETIONS)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{tmp}/none.py:f", "there is no file"),
        ("{tmp}/mine.py:missing", "has no function 'missing'; it has length"),
        ("{tmp}/broken.py:f", "raised SyntaxError while it was loaded"),
        ("no_such_module:f", "there is no module 'no_such_module'"),
        ("ppo_lm.rewards.tldr:nothing", "has no function 'nothing'"),
        ("ppo_lm.rewards.tldr:", "write module:name or path/file.py:name"),
        ("{tmp}/mine.py:NUMBER", "'NUMBER' is neither a function nor a Reward"),
    ],
)
def test_a_function_that_cannot_be_found_is_reported_in_one_sentence(tmp_path, spec, message):
    (tmp_path / "mine.py").write_text(
        "def length(completions):\n    return [len(c) for c in completions]\nNUMBER = 3\n"
    )
    (tmp_path / "broken.py").write_text("def f(:\n")
    with pytest.raises(RewardError, match=message):
        load_reward(spec.format(tmp=tmp_path))


POST = (
    "POST: My brother Tom sold my old guitar last week without asking and I moved out of the house, "
    "should I forgive him? TL;DR:"
)


def test_the_tldr_scorer_prefers_what_a_reader_would():
    good = tldr_score(POST, " My brother sold my guitar and I moved out, should I forgive him?")
    flawed = {
        "invented": " The spaceship exploded near Jupiter and aliens danced around, should pirates celebrate tonight?",
        "unfinished": " My brother sold my guitar and I moved out, should I",
        "repeats": " My brother sold my brother sold my brother sold my brother sold my guitar?",
        "too short": " Guitar.",
        "too long": " " + POST,
        "empty": " ",
    }
    for flaw, summary in flawed.items():
        assert tldr_score(POST, summary) < good, flaw
    assert tldr_score(POST, "") == -1


def test_the_tldr_scorer_by_hand():
    # 4 words: faithful 2 of 2 ("tom", "guitar"; "and", "the" are function words), brief 4 of 5, fresh 1, not complete
    assert tldr_score("tom guitar", "tom and the guitar") == pytest.approx(2 * (1 + 0.8 + 1 + 0) / 4 - 1)
