import itertools
import json
import random

import pytest

from ppo_lm.config.data_settings import SourceSettings
from ppo_lm.data import PromptSet, load_prompts
from ppo_lm.data.encoding import pad
from ppo_lm.data.report import histogram
from ppo_lm.errors import DataError
from ppo_lm.optimisation.batches import length_bucketed_batches

pytestmark = pytest.mark.fast


def test_other_columns_are_passed_on_with_none_where_a_row_lacks_them(tmp_path):
    lines = tmp_path / "prompts.jsonl"
    records = [{"query": "a", "facts": [1], "id": 1}, {"query": "b", "facts": [2]}]
    lines.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    loaded, _ = load_prompts(str(lines), SourceSettings(prompt_column="query"))
    assert loaded.prompts == ["a", "b"]
    assert loaded.columns == {"facts": [[1], [2]], "id": [1, None]}


def test_a_column_with_a_reserved_name_is_refused(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a", "completions": 1}')
    with pytest.raises(
        DataError, match="column 'completions' clashes with an argument that ppo_lm passes to reward functions"
    ):
        load_prompts(str(file))


def test_the_split_is_seeded_and_loses_nothing():
    prompts = PromptSet([str(i) for i in range(20)], {"n": list(range(20))})
    train, held_out = prompts.split(2, seed=1)
    assert len(held_out) == 2 and sorted(train.prompts + held_out.prompts, key=int) == prompts.prompts
    assert [str(n) for n in held_out.columns["n"]] == held_out.prompts
    assert prompts.split(2, seed=1)[1].prompts == held_out.prompts != prompts.split(2, seed=2)[1].prompts


@pytest.mark.parametrize(
    ("rows", "asked", "held_out"),
    [(1000, 128, 100), (1000, 64, 64), (20, 50, 2), (40, 3, 3), (20, 0, 0), (6, 128, 1), (2, 128, 1), (1, 128, 0)],
)
def test_at_most_a_tenth_is_held_out_at_least_one_and_no_more_than_asked_for(rows, asked, held_out):
    prompts = PromptSet([str(i) for i in range(rows)])
    assert [len(part) for part in prompts.split(asked, seed=0)] == [rows - held_out, held_out]


ONE_ONLY = "  evaluations are means over 1 held-out example only: read nothing into small differences"


@pytest.mark.parametrize(
    ("rows", "asked", "lines"),
    [
        (400, 40, []),
        (400, 128, ["  40 held out instead of 128, because at most a tenth of the examples is"]),
        (
            40,
            256,
            [
                "  4 held out instead of 256, because at most a tenth of the examples is",
                "  evaluations are means over 4 held-out examples only: read nothing into small differences",
            ],
        ),
        (40, 0, []),
        (9, 256, ["  1 held out instead of 256, because there are only 9 examples", ONE_ONLY]),
        (2, 256, ["  1 held out instead of 256, because there are only 2 examples", ONE_ONLY]),
        (1, 256, ["  0 held out instead of 256, because there is only one example"]),
        (2, 1, [ONE_ONLY]),
    ],
)
def test_the_report_says_what_small_data_means_for_the_evaluation(rows, asked, lines):
    prompts, report = load_prompts([str(i) for i in range(rows)])
    train, held_out = prompts.split(asked, seed=0)
    report.describe_split(train.prompts, held_out.prompts, asked)
    assert report.lines()[2:] == lines


@pytest.mark.parametrize(
    ("prompts", "rows", "asked", "held_out"), [(1, 8, 4, 0), (2, 12, 1, 6), (2, 12, 100, 6), (25, 100, 6, 4)]
)
def test_the_report_says_that_rows_with_one_prompt_stay_together(prompts, rows, asked, held_out):
    loaded, report = load_prompts([f"p{i % prompts}" for i in range(rows)])
    train, test = loaded.split(asked, seed=0)
    report.describe_split(train.prompts, test.prompts, asked)
    why = "because examples with the same prompt stay together"
    assert f"  {held_out} held out instead of {asked}, {why}" in report.lines()


def test_rows_with_one_prompt_are_held_out_together():
    prompts = PromptSet([f"p{i % 100}" for i in range(400)])
    train, held_out = prompts.split(8, seed=0)
    assert not set(train.prompts) & set(held_out.prompts)
    assert len(train) + len(held_out) == 400 and len(held_out) == 8


def test_no_more_rows_are_held_out_than_asked_for_except_those_of_one_prompt():
    prompts = PromptSet(["common"] * 400 + [f"p{i}" for i in range(600)])
    assert [len(part) for part in prompts.split(10, seed=0)] == [990, 10]
    assert [len(part) for part in PromptSet(["a"] * 6 + ["b"] * 4).split(2, seed=0)] == [6, 4]
    assert [len(part) for part in PromptSet(["a"] * 6).split(2, seed=0)] == [6, 0]


def test_drawing_begins_with_what_is_held_out_and_takes_as_many_as_there_are():
    prompts = PromptSet([str(i) for i in range(20)], {"n": list(range(20))})
    drawn = prompts.draw(2, seed=1)
    assert drawn.prompts == prompts.split(2, seed=1)[1].prompts
    more = prompts.draw(5, seed=1)
    assert more.prompts[:2] == drawn.prompts and len(more) == 5
    whole = prompts.draw(50, seed=1)
    assert sorted(whole.columns["n"]) == list(range(20)) and [str(n) for n in whole.columns["n"]] == whole.prompts
    assert PromptSet(["a"]).draw(3, seed=0) == PromptSet(["a"])


def test_the_report_counts_duplicates_leaks_and_lengths():
    _, report = load_prompts(["a", "b", "a", "c"])
    report.lengths = [1, 2, 3, 100]
    report.describe_split(["a", "b"], ["a", "c"])
    text = "\n".join(report.lines())
    assert "4 of 4 rows used, 1 duplicates" in text
    assert "2 for training, 2 held out, 1 of them with a prompt that is also trained on" in text
    assert histogram([1, 2, 3, 100]) == [(1, 13, 3), *[(1 + 13 * i, 13 + 13 * i, 0) for i in range(1, 7)], (92, 104, 1)]
    assert histogram([5, 5]) == [(5, 5, 2)]


def test_a_round_of_batches_has_every_prompt_once_even_when_the_set_is_smaller_than_a_batch():
    prompts = PromptSet(list("abcde"))
    seen = list(
        itertools.chain.from_iterable(batch.prompts for batch in itertools.islice(prompts.batches(7, seed=0), 5))
    )
    assert len(seen) == 35
    for start in range(0, 35, 5):
        assert sorted(seen[start : start + 5]) == list("abcde")


def test_token_ids_are_required_only_of_prompts_that_have_them():
    assert PromptSet(["a", "b"], ids=[[1], [2]]).select([1]).require_ids() == [[2]]
    with pytest.raises(ValueError, match="the prompts have no token ids yet"):
        PromptSet(["a", "b"]).require_ids()


def test_padding_side_and_mask():
    ids, mask = pad([[5, 6], [7]], 0, side="left")
    assert ids.tolist() == [[5, 6], [0, 7]]
    assert mask.tolist() == [[True, True], [False, True]]
    ids, mask = pad([[5, 0], [7]], 0, side="right")
    assert ids.tolist() == [[5, 0], [7, 0]]
    assert mask.tolist() == [[True, True], [True, False]]  # a real token with the pad's id stays real


def test_length_buckets_hold_every_index_once_and_similar_lengths():
    lengths = [random.Random(i).randint(1, 100) for i in range(1000)]
    batches = list(length_bucketed_batches(lengths, 10, random.Random(0)))
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(1000))
    spread = sum(max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in batches) / len(batches)
    assert spread < 20  # random batches of 10 spread over 80 of 100
