"""Every format is read; every malformed row is named with its file and location, and does not affect the others."""

import json
import os
import re
import time

import pytest

from ppo_lm.data import load_demonstrations, load_preferences, load_prompts
from ppo_lm.data.sources import LONGEST_ROW, read_records
from ppo_lm.errors import DataError

pytestmark = pytest.mark.fast

ROWS = [
    {"prompt": "first", "completion": "one", "label": 1},
    {"prompt": "second ü", "completion": 'two, "quoted"\nlines', "label": 2},
]


def write(folder, name, rows=ROWS):
    file = folder / name
    if file.suffix == ".jsonl":
        file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows), encoding="utf-8")
    elif file.suffix == ".csv":
        import csv

        with file.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        from datasets import Dataset

        Dataset.from_list(rows).to_parquet(str(file))
    return str(file)


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv", "d.parquet"])
def test_every_format_gives_the_same_demonstrations(tmp_path, name):
    found, report = load_demonstrations(write(tmp_path, name))
    assert [(d.prompt, d.completion) for d in found] == [("first", " one"), ("second ü", ' two, "quoted"\nlines')]
    assert (report.rows, report.used, report.dropped, report.duplicates) == (2, 2, [], 0)


def test_a_folder_of_files_a_saved_data_set_and_a_list(tmp_path):
    from datasets import Dataset, DatasetDict

    folder = tmp_path / "many"
    folder.mkdir()
    write(folder, "a.jsonl", ROWS[:1])
    write(folder, "b.csv", ROWS[1:])
    (folder / "readme.md").write_text("not data")
    assert load_prompts(str(folder))[0].prompts == ["first", "second ü"]

    DatasetDict({"train": Dataset.from_list(ROWS[:1]), "test": Dataset.from_list(ROWS[1:])}).save_to_disk(
        str(tmp_path / "saved")
    )
    assert [row["prompt"] for _, row in read_records(str(tmp_path / "saved"), "prompts", "prompt").rows] == ["first"]
    assert [
        row["prompt"] for _, row in read_records(str(tmp_path / "saved"), "prompts", "prompt", split="test").rows
    ] == ["second ü"]
    with pytest.raises(DataError, match="there is no split 'dev'; it has train, test; set data_split"):
        read_records(str(tmp_path / "saved"), "prompts", "prompt", split="dev")

    assert load_prompts(["a", "b"])[0].prompts == ["a", "b"]
    talk = [{"role": "user", "content": "hi"}]
    assert load_prompts([talk, "b"])[0].prompts == [talk, "b"]
    assert load_prompts(ROWS)[0].columns == {"completion": ["one", ROWS[1]["completion"]], "label": [1, 2]}


BAD_ROWS = {
    "missing column": ({"text": "a"}, "has no column 'prompt'; it has text"),
    "number": ({"prompt": 3}, "has no text in column 'prompt': 3"),
    "empty text": ({"prompt": " "}, "has no text in column 'prompt'"),
    "null": ({"prompt": None, "completion": None}, "is empty: every column is null"),
    "list": (["a"], "is a list, not an object"),
    "surrogate": ({"prompt": "half an emoji \ud83d"}, "is not UTF-8"),
    "name": ({"prompt": "a", "na\udc80me": "x"}, "is not UTF-8"),
    "long": ({"prompt": "x" * 10_000_000}, r"has 10,000,0.. characters, more than the limit of 1,000,000 per row"),
    "role": (
        {"prompt": [{"role": "human", "content": "hi"}]},
        "has the role 'human' in message 1 of 'prompt'; the valid roles are system",
    ),
    "order": (
        {"prompt": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
        "two messages by 'user' in a row",
    ),
    "end": (
        {"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        "ends with an assistant turn",
    ),
    "system": (
        {"prompt": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]},
        "a system message at position 2",
    ),
    "content": ({"prompt": [{"role": "user", "content": None}]}, "no text in message 1 of 'prompt'"),
    "id": ({"prompt": "c", "id": 7}, r"repeats the id 7 \(first at .*: line 1\)"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_of_a_jsonl_file_is_named_and_the_others_kept(tmp_path, name):
    row, message = BAD_ROWS[name]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, [{"prompt": "a", "id": 7}, row, {"prompt": "b", "id": 8}])))
    prompts, report = load_prompts(str(file))
    assert prompts.prompts == ["a", "b"]
    assert (report.rows, report.used, len(report.dropped)) == (3, 2, 1)
    assert str(report.dropped[0]).startswith(f"{file}: line 2 ")
    assert re.search(message, str(report.dropped[0]))
    assert any(f"left out: {file}: line 2" in line for line in report.lines())


BAD_FILES = {
    "latin.txt": ("gut\nschön\nja".encode("latin-1"), "line 2 is not UTF-8; save the file as UTF-8"),
    "latin.jsonl": ('{"prompt": "a"}\n{"prompt": "schön"}\n{"prompt": "b"}'.encode("latin-1"), "line 2 is not UTF-8"),
    "latin.csv": ("prompt,n\na,1\nschön,2\nb,3\n".encode("latin-1"), "line 3 is not UTF-8"),
    "cut.jsonl": (b'{"prompt": "a"}\n{"prompt": \n{"prompt": "b"}', "line 2 is not JSON"),
    "digits.jsonl": (
        b'{"prompt": "a"}\n{"prompt": ' + b"1" * 5000 + b'}\n{"prompt": "b"}',
        "line 2 has a number with 5,000 digits",
    ),
    "deep.jsonl": (b'{"prompt": "a"}\n' + b"[" * 100_000 + b'\n{"prompt": "b"}', "line 2 is nested more than 64 deep"),
    "quote.csv": (b'prompt,n\n"a\nlong one",1\n"open,2\nb,3\n', "line 4 is not CSV"),
    "quotes.csv": (b'prompt,n\na,1\n"line one\nline two with "bad" quote",2\nb,3\n', "line 3 is not CSV"),
    "blank.csv": (b"\nprompt,n\na,1\nb\nc,3\n", "line 4 has 1 cells"),
    "cells.csv": (b"prompt,n\na,1\nb\nc,3\n", "line 3 has 1 cells, but the header has 2"),
    "long.jsonl": (
        b'{"prompt": "a"}\n{"prompt": "' + b"x" * 10_000_000 + b'"}\n{"prompt": "b"}',
        "line 2 has 10,000,0.. characters",
    ),
    "long.txt": (b"a\n" + b"x" * (LONGEST_ROW + 1) + b"\nb", "line 2 has 1,000,001 characters"),
    "mixed.json": (b'[{"prompt": "a"}, 3, {"prompt": "b"}]', "row 2 is a number, not an object"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_lines_of_every_format_are_named_and_the_others_kept(tmp_path, name):
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    prompts, report = load_prompts(str(tmp_path / name))
    assert len(prompts) == 2
    assert re.search(message, str(report.dropped[0])) and name in str(report.dropped[0])


def test_bad_rows_of_a_parquet_file_are_named_and_the_others_kept(tmp_path):
    rows = [
        {"prompt": "a", "id": 1},
        {"prompt": None, "id": None},
        {"prompt": "", "id": 3},
        {"prompt": "x" * (LONGEST_ROW + 1), "id": 4},
        {"prompt": "b", "id": 1},
    ]
    prompts, report = load_prompts(write(tmp_path, "p.parquet", rows))
    assert prompts.prompts == ["a"]
    assert [str(d).split(".parquet: ")[1][:23] for d in report.dropped] == [
        "row 2 is empty: every c",
        "row 4 has 1,000,001 cha",
        "row 3 has no text in co",
        "row 5 repeats the id 1 ",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "there is no such file"),
        ("empty.jsonl", b"", "it has no rows"),
        ("empty.txt", b"\n \n", "it has no rows"),
        ("empty.json", b"[]", "it has no rows"),
        ("empty.csv", b"", "it has no rows"),
        ("header.csv", b"prompt,n\n", "it has no rows"),
        ("broken.json", b'[{"prompt": "a"},\n oops]', "it is not JSON: .* line 2, column 2"),
        ("number.json", b"3", "must hold a list of objects"),
        ("deep.json", b"[" * 100_000, "it is nested more than 64 deep"),
        ("header.quote.csv", b'"prompt" ,n\na,1\n', "the header in line 1 is not CSV"),
        ("broken.parquet", b"PAR1 not really", "is not a readable Parquet file"),
        ("empty_folder", "folder", "has no .txt, .jsonl, .json, .csv, .parquet file"),
        ("table.xlsx", b"..", "this kind of file cannot be read; use .txt, .jsonl"),
        (
            "column.jsonl",
            b'{"text": "a"}\n{"text": "b"}',
            "no row can be used: .*line 1 has no column 'prompt'; it has text; .*Set prompt_column to",
        ),
        ("utf16.txt", "nur\ndas".encode("utf-16"), "no row can be used: .*line 1 is not UTF-8"),
    ],
)
def test_a_source_that_cannot_be_used_is_reported_in_one_sentence(tmp_path, name, content, message):
    if content == "folder":
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_prompts(str(tmp_path / name))
    assert name in str(caught.value)


def test_a_data_set_that_cannot_be_reached_is_reported_in_one_sentence():
    with pytest.raises(
        DataError,
        match="preferences 'nobody/nothing': there is no such file, and it cannot be loaded as a hub data set",
    ):
        load_preferences("nobody/nothing")


def test_only_a_newline_ends_a_line(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_bytes('{"prompt": "a\u2028b\u0085c"}\r\n{"prompt": "d"}\n'.encode())
    assert load_prompts(str(file))[0].prompts == ["a\u2028b\u0085c", "d"]


def test_a_csv_file_of_bad_rows_is_read_quickly(tmp_path):
    file = tmp_path / "escaped.csv"
    file.write_text("prompt,n\n" + '"a \\"b\\" c",1\n' * 50_000 + "good,1\n")
    started = time.process_time()
    prompts, report = load_prompts(str(file))
    assert time.process_time() - started < 10
    assert prompts.prompts == ["good"] and len(report.dropped) == 50_000


def test_a_parquet_file_that_was_replaced_is_read_again(tmp_path):
    """Under the same name, size and time, as two writes within a tick of the clock have."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    file, seen = tmp_path / "data.parquet", []
    for text in ("one", "two"):
        parquet.write_table(pyarrow.table({"prompt": [text] * 3, "facts": [[{"n": 1}]] * 3}), file)
        os.utime(file, ns=(10**18, 10**18))
        prompts, _ = load_prompts(str(file))
        seen.append(prompts.prompts[0])
        assert prompts.columns == {"facts": [[{"n": 1}]] * 3}
    assert seen == ["one", "two"]
