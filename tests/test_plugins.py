"""Parts chosen by name."""

import os

import pytest

from ppo_lm.errors import ConfigError
from ppo_lm.plugins import Registry

pytestmark = pytest.mark.fast


def make() -> Registry:
    registry = Registry("advantage_estimator")
    registry.register("gae")("the first")
    registry.register("rloo")("the second")
    return registry


def test_a_registered_name_and_one_of_a_file(tmp_path):
    (tmp_path / "mine.py").write_text("from neighbour import value as own\n")
    (tmp_path / "neighbour.py").write_text("value = 'my own'\n")
    registry = make()
    assert registry.names == ["gae", "rloo"]
    assert registry.find("rloo") == "the second"
    assert registry.find(f"{tmp_path}/mine.py:own") == "my own"


def test_what_cannot_be_found_is_reported_in_one_sentence(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    for spec, sentence in {
        "rlo": "advantage_estimator is 'rlo'; it must be one of gae, rloo; did you mean 'rloo'?",
        "x": "one of gae, rloo; or give your own as module:name or path/file.py:name",
        "no.such.module:x": "there is no module 'no'",
        f"{tmp_path}/none.py:x": "there is no file",
        f"{tmp_path}/broken.py:x": "raised ZeroDivisionError while it was loaded: division by zero",
        "math:": "write module:name or path/file.py:name",
        "math:nothing": "math has no function 'nothing'",
    }.items():
        with pytest.raises(ConfigError) as found:
            make().find(spec)
        assert sentence in str(found.value)


def test_a_name_is_taken_once():
    add = make().register("gae")
    with pytest.raises(ValueError, match="'gae' is already registered"):
        add("again")


def test_a_file_is_executed_once_until_it_changes(tmp_path):
    own = tmp_path / "counted.py"
    own.write_text("seen = []\ndef part(): pass\n")
    registry = make()
    first = registry.find(f"{own}:seen")
    assert (
        registry.find(f"{own}:seen") is first
        and registry.find(f"{tmp_path}/../{tmp_path.name}/counted.py:seen") is first
    )
    own.write_text("seen = ['changed']\n")
    os.utime(own, (1, 1))
    assert registry.find(f"{own}:seen") == ["changed"]
