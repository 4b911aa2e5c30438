import itertools
import json
import random

import pytest

from ppo_lm.data import PromptSet, load_prompts
from ppo_lm.data.encoding import length_bucketed_batches, pad
from ppo_lm.errors import DataError


def test_text_and_jsonl_files(tmp_path):
    text = tmp_path / "prompts.txt"
    text.write_text("first\n\nsecond ü\n", encoding="utf-8")
    assert load_prompts(str(text)).prompts == ["first", "second ü"]
    lines = tmp_path / "prompts.jsonl"
    records = [{"query": "a", "facts": [1], "id": 1}, {"query": "b", "facts": [2]}]
    lines.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    loaded = load_prompts(str(lines), prompt_column="query")
    assert loaded.prompts == ["a", "b"]
    assert loaded.columns == {"facts": [[1], [2]]}  # `id` is not in every record


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "there is no such file"),
        ("missing.jsonl", None, "there is no such file"),
        ("empty.txt", b"\n \n", "there is no prompt in it"),
        ("empty.jsonl", b"", "there is no prompt in it"),
        ("latin.txt", "gut\nschön".encode("latin-1"), r"line 2 is not UTF-8 \(byte 7\); save the file as UTF-8"),
        ("broken.jsonl", b'{"prompt": "a"}\n{"prompt": ', "line 2 is not JSON"),
        ("array.jsonl", b'["a"]', "line 1 is list, not an object"),
        ("column.jsonl", b'{"text": "a"}', "line 1 has no text in column 'prompt'; it has text; set prompt_column"),
        ("number.jsonl", b'{"prompt": 3}', "line 1 has no text in column 'prompt'"),
        ("table.csv", b"prompt\na", r"only .txt \(a prompt a line\) and .jsonl"),
    ],
)
def test_a_bad_file_is_named_with_the_place(tmp_path, name, content, message):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_prompts(str(file))
    assert name in str(caught.value)


def test_a_data_set_that_cannot_be_reached_is_one_sentence():
    with pytest.raises(DataError, match="prompts 'nobody/nothing': there is no such file, and as a hub data set it cannot be loaded"):
        load_prompts("nobody/nothing")


def test_only_a_newline_ends_a_line(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_bytes('{"prompt": "a\u2028b\u0085c"}\r\n{"prompt": "d"}\n'.encode())
    assert load_prompts(str(file)).prompts == ["a\u2028b\u0085c", "d"]


def test_a_column_with_a_reserved_name_is_refused(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a", "completions": 1}')
    with pytest.raises(DataError, match="column 'completions' has a name that reward functions get from ppo_lm"):
        load_prompts(str(file))


def test_the_split_is_seeded_and_loses_nothing():
    prompts = PromptSet([str(i) for i in range(20)], {"n": list(range(20))})
    train, held_out = prompts.split(5, seed=1)
    assert sorted(train.prompts + held_out.prompts, key=int) == prompts.prompts
    assert [str(n) for n in held_out.columns["n"]] == held_out.prompts
    assert prompts.split(5, seed=1)[1].prompts == held_out.prompts != prompts.split(5, seed=2)[1].prompts
    assert [len(part) for part in prompts.split(50, seed=0)] == [10, 10]  # never more than half
    assert [len(part) for part in prompts.split(0, seed=0)] == [20, 0]


def test_a_round_of_batches_has_every_prompt_once_even_when_the_set_is_smaller_than_a_batch():
    prompts = PromptSet(list("abcde"))
    seen = list(itertools.chain.from_iterable(batch.prompts for batch in itertools.islice(prompts.batches(7, seed=0), 5)))
    assert len(seen) == 35
    for start in range(0, 35, 5):
        assert sorted(seen[start : start + 5]) == list("abcde")


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
