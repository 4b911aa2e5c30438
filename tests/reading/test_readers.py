"""Every file and message is read within limits, or refused in one sentence, at once."""

import json
import time
import tracemalloc

import pytest

from ppo_lm.config.files import read_settings
from ppo_lm.data import load_prompts
from ppo_lm.errors import ConfigError, DataError, ModelError
from ppo_lm.health.rows import read_row
from ppo_lm.models.adapter_check import check_adapter_folder
from ppo_lm.models.reward_model import _read_normalisation
from ppo_lm.reading import Unreadable, parse_json, parse_yaml, read_json, read_lines, read_text, read_yaml
from ppo_lm.rewards.classifier import is_classifier_folder
from tests.fuzz.hostile import HUGE_FILES, JSON, YAML

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def bounded():
    """Every test takes seconds at most, and no more than 200 MB of Python's memory."""
    tracemalloc.start()
    started = time.process_time()
    yield
    assert time.process_time() - started < 10
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()


@pytest.mark.parametrize("name", JSON)
def test_hostile_json_is_refused_in_one_sentence(name, tmp_path):
    (tmp_path / "file.json").write_bytes(JSON[name])
    for read in (lambda: parse_json(JSON[name]), lambda: read_json(tmp_path / "file.json")):
        with pytest.raises(Unreadable) as caught:
            read()
        assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", YAML)
def test_hostile_yaml_is_refused_in_one_sentence(name, tmp_path):
    (tmp_path / "config.yaml").write_bytes(YAML[name])
    with pytest.raises(ConfigError) as caught:
        read_settings(tmp_path / "config.yaml", "--config")
    assert len(caught.value.problems) == 1 and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "problem"),
    {
        "billion laughs": "more than 10,000 values once its aliases are written out",
        "an alias within itself": "line 1: an alias refers to what it is part of",
        "nested lists": "nested more than 32 deep",
        "many digits": "a number with too many digits",
        "base sixty": "a number with too many digits",
        "too large": "has 10,000,002 bytes, more than the limit of 100,000",
        "a key twice": "names 'seed' twice, in lines 1 and 3; remove one",
        "not UTF-8": r"is not UTF-8 \(line 1\)",
    }.items(),
)
def test_what_is_wrong_with_yaml_is_said(name, problem, tmp_path):
    (tmp_path / "config.yaml").write_bytes(YAML[name])
    with pytest.raises(Unreadable, match=problem):
        read_yaml(tmp_path / "config.yaml")


def test_ordinary_json_and_yaml_are_read(tmp_path):
    deep = "[" * 64 + "]" * 64
    assert parse_json('{"a": [1, -2.5, "\\u00e9", null, true]}') == {"a": [1, -2.5, "é", None, True]}
    assert parse_json(deep) and parse_json("null") is None and parse_json(str(10**299)) == 10**299
    brackets = "[{" * 64 + '\\"\\\\'
    assert parse_json(json.dumps([brackets] * 64 + [[]] * 64)) == [brackets] * 64 + [[]] * 64
    assert parse_json("[NaN, 1e999]", allow_nan=True)[1] == float("inf")
    assert parse_yaml("base: &b {lr: 1e-5}\nmine:\n  <<: *b\n  <<: *b\nlist: [*b, *b]") == {
        "base": {"lr": 1e-5},
        "mine": {"lr": 1e-5},
        "list": [{"lr": 1e-5}] * 2,
    }
    assert parse_yaml("") is None
    for name, read in {"file.json": read_json, "file.yaml": read_yaml}.items():
        (tmp_path / name).write_bytes(b'\xef\xbb\xbf{"a": 1}')  # with a byte order mark
        assert read(tmp_path / name) == {"a": 1}


@pytest.mark.parametrize("name", HUGE_FILES)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".txt", ".yaml"])
def test_a_file_that_would_take_for_ever_is_refused(name, suffix, tmp_path):
    file = tmp_path / f"file{suffix}"
    HUGE_FILES[name](file)
    with pytest.raises(Unreadable):
        read_text(file)
    with pytest.raises(Unreadable):
        list(read_lines(file))
    if suffix == ".yaml":
        with pytest.raises(ConfigError, match="cannot be read"):
            read_settings(file, "--config")
    else:
        with pytest.raises(DataError, match="file"):
            load_prompts(str(file))


@pytest.mark.parametrize("name", JSON)
def test_files_of_models_and_records_go_through_the_same_reader(name, tmp_path):
    for file in ("adapter_config.json", "normalisation.json", "config.json"):
        (tmp_path / file).write_bytes(JSON[name])
    with pytest.raises(ModelError, match="adapter_config.json cannot be read: it "):
        check_adapter_folder(tmp_path)
    with pytest.raises(ModelError, match="normalisation.json cannot be read: it "):
        _read_normalisation(tmp_path / "normalisation.json")
    assert not is_classifier_folder(tmp_path)
    with pytest.raises(Exception, match="line 3 is damaged: it is not the record of a step"):
        read_row(tmp_path / "metrics.jsonl", 3, JSON[name].decode("utf-8", "surrogateescape"))


def test_a_row_that_is_hostile_is_left_out_and_the_others_are_used(tmp_path):
    lines = [JSON[name] for name in ("nested lists", "400 digits", "cut off", "two values")]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([b'{"prompt": "one"}', *lines, b'{"prompt": "two", "x": NaN}']))
    prompts, report = load_prompts(str(tmp_path / "rows.jsonl"))
    assert prompts.prompts == ["one", "two"]
    assert [dropped.place.rpartition(" ")[2] for dropped in report.dropped] == ["2", "3", "4", "5"]
