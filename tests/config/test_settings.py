import dataclasses
from typing import Annotated, Literal

import pytest

from ppo_lm.config import PPOConfig
from ppo_lm.config.field_types import MAY_CHANGE, SETS_LENGTH, FormerName, PositiveInt, Rule, Topic
from ppo_lm.config.fields import fields_of, help_texts
from ppo_lm.config.settings import Settings, checked, differences, with_current_names
from ppo_lm.errors import ConfigError

pytestmark = pytest.mark.fast


@dataclasses.dataclass(kw_only=True)
class Base(Settings):
    MODEL = Topic("Model")

    width: PositiveInt = 4
    """How wide."""
    depth: PositiveInt = 1
    """How deep."""


@checked
@dataclasses.dataclass(kw_only=True)
class Example(Base):
    SAMPLING = Topic("Sampling")

    depth: PositiveInt = 2
    """How deep
    the example is."""
    mode: Literal["a", "b"] | None = None
    """Which."""
    wheels: Annotated[PositiveInt, Rule("be even", lambda value: value % 2 == 0), FormerName("tyres")] = 2
    """How many."""


def test_a_field_is_what_its_type_its_section_and_its_docstring_say():
    fields = fields_of(Example)
    assert {name: field.topic.value for name, field in fields.items()} == {
        "width": "Model",
        "depth": "Sampling",
        "mode": "Sampling",
        "wheels": "Sampling",
    }
    assert fields["mode"].choices == ("a", "b") and fields["mode"].optional and not fields["wheels"].choices
    assert help_texts(Example) == {
        "width": "How wide.",
        "depth": "How deep the example is.",
        "mode": "Which.",
        "wheels": "How many.",
    }


def test_every_rule_of_a_field_is_checked():
    assert Example(wheels=4).wheels == 4
    for wheels, problem in {0: "be at least 1", 3: "be even", -1: "be at least 1 and be even"}.items():
        with pytest.raises(ConfigError) as caught:
            Example(wheels=wheels)
        assert caught.value.problems == [f"wheels is {wheels}; it must {problem}"]


def test_a_former_name_works_with_one_note_on_stderr(capsys):
    assert Example(tyres=6) == Example(wheels=6) == Example(tyres=6)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "note: tyres is now called wheels; the old name works in this version only\n"


def test_a_problem_with_a_former_name_is_reported_under_the_new_one():
    with pytest.raises(ConfigError) as caught:
        Example(tyres=3)
    assert caught.value.problems == ["wheels is 3; it must be even"]


def test_both_names_of_a_field_are_refused():
    with pytest.raises(ConfigError) as caught:
        Example(tyres=2, wheels=4)
    assert caught.value.problems == ["tyres is the former name of wheels; set only wheels"]


def test_differences_name_both_values_of_what_may_not_change():
    now = dataclasses.asdict(Example(width=8, depth=3))
    then = {"width": 4, "depth": 2, "tyres": 2}  # of a version without `mode`
    assert differences(now, with_current_names(Example, then), may_change=("depth",)) == ["width was 4 and is 8"]


def test_marks_of_fields_are_told_apart():
    """Python 3.10 takes `Annotated` types from a cache, in which equal marks are the same."""
    assert SETS_LENGTH != MAY_CHANGE
    assert (fields_of(PPOConfig)["steps"].sets_length, fields_of(PPOConfig)["steps"].may_change) == (True, False)
