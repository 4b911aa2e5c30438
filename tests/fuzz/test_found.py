"""What the fuzzing campaign found: each ended in a traceback before."""

import json

import pytest

from ppo_lm import PPOConfig
from ppo_lm.base_setup import load_base, make_lora_config
from ppo_lm.base_setup.model_setup import load_value_adapter
from ppo_lm.collection.answers import AnswerStore
from ppo_lm.data import Demonstration, load_prompts
from ppo_lm.data.encoded import encode_demonstrations
from ppo_lm.data.fitting import encode_prompts, fit_prompts
from ppo_lm.data.report import DataReport
from ppo_lm.errors import ConfigError, DataError, ModelError, RewardError, UserError
from ppo_lm.health.rows import read_row
from ppo_lm.models import ValueModel
from ppo_lm.rewards import load_reward
from ppo_lm.saving import write_text
from ppo_lm.user_code import call_within

ANSWER = dict(task=0, repeat_of=None, prompt="a", first="b", second="c", preferred="first", annotator="d")


@pytest.mark.parametrize("number", [10**400, 2**70, -(2**63)], ids=["10^400", "2^70", "-2^63"])
@pytest.mark.parametrize("name", ["seed", "value_coef", "reward_weights"])
def test_a_whole_number_that_torch_cannot_take_is_refused(name, number):
    with pytest.raises(ConfigError, match=rf"{name} is .*; it must be below 2\^63"):
        PPOConfig(**{name: [number] if name == "reward_weights" else number})


@pytest.mark.parametrize("value", ["(" * 300, "-" * 5000 + "1"], ids=["brackets", "signs"])
def test_a_reward_whose_arguments_are_nested_too_deeply_is_refused(value):
    with pytest.raises(RewardError, match="cannot be made with these arguments"):
        load_reward(f"length_target(words={value})")


def test_a_row_in_python_that_is_nested_too_deeply_is_left_out():
    deep = []
    for _ in range(3000):
        deep = [deep]
    prompts, report = load_prompts([{"prompt": "a"}, {"prompt": "b", "x": deep}])
    assert prompts.prompts == ["a"] and str(report.dropped[0]) == "row 2 is nested more than 64 deep"


@pytest.mark.parametrize("token", [-1, 10**6, 10**400], ids=["-1", "10^6", "10^400"])
def test_a_token_id_that_the_model_does_not_have_is_left_out(base, token):
    prompts, report = load_prompts([{"prompt": [5, 6]}, {"prompt": [5, token]}])
    fitted, report = fit_prompts(prompts, report, base, max_prompt_tokens=0, max_new_tokens=4)
    assert fitted.ids == [[5, 6]] and "has a token id" in str(report.dropped)
    with pytest.raises(DataError, match="has a token id"):
        encode_prompts([[token]], base, 4)


@pytest.mark.parametrize("setting", [{"lora_alpha": "a"}, {"r": [1]}, {"arrow_config": True}], ids=str)
def test_a_setting_of_an_adapter_that_peft_does_not_expect_is_a_model_error(setting, base, folder, tmp_path):
    base.add_adapter("value", make_lora_config(4, 8, 0.0))
    ValueModel(base).save(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **setting, "base_model_name_or_path": folder}))
    with pytest.raises(ModelError):
        load_value_adapter(load_base(folder), tmp_path)
    with pytest.raises(ModelError):
        load_base(str(tmp_path))


@pytest.mark.parametrize("damage", [{"task": []}, {"repeat_of": "x"}, {"first": None}], ids=str)
def test_a_stored_answer_of_other_types_is_refused(damage, tmp_path):
    (tmp_path / "answers.jsonl").write_text(json.dumps({**ANSWER, **damage}) + "\n")
    with pytest.raises(DataError, match="line 1 is not an answer"):
        AnswerStore(tmp_path)


def test_a_repeated_answer_whose_first_was_removed_does_not_count(tmp_path):
    (tmp_path / "answers.jsonl").write_text(json.dumps({**ANSWER, "task": 4, "repeat_of": 0}) + "\n")
    assert AnswerStore(tmp_path).agreement() == (0, 0)


def test_a_lone_surrogate_is_written_as_json_writes_it(tmp_path):
    write_text(tmp_path / "a.json", json.dumps("\ud800", ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text()) == "\ud800"


@pytest.mark.parametrize("value", ["x", [1], {}], ids=str)
def test_a_metric_that_is_not_a_number_is_damage(value, tmp_path):
    with pytest.raises(UserError, match="line 7 is damaged"):
        read_row(tmp_path / "metrics.jsonl", 7, json.dumps({"step": 1, "ended": value}))


def test_a_time_limit_of_ages_is_none():
    assert call_within(1e300, lambda: 5) == 5


def test_values_are_not_learned_without_a_prompt(base):
    given = [Demonstration("", " a"), Demonstration("b", " a")]
    report = DataReport("demonstrations", "here", 2, 2)
    encoded = encode_demonstrations(base, given, report, max_prompt_tokens=0, max_tokens=64, empty_prompts=False)
    assert [text.prompt for text in encoded.texts] == ["b"]
    assert str(report.dropped[0]) == "row 1 has an empty prompt, so there is no state to value"
