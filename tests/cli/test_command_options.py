"""From arguments to a configuration: files, options, and the embedded task."""

import dataclasses

import pytest
import yaml

from ppo_lm.cli.options import read_config
from ppo_lm.cli.parser import OF_A_RUN, ConfigParser
from ppo_lm.config import EvaluateConfig, PPOConfig, RewardConfig, SFTConfig, ValueConfig
from ppo_lm.config.fields import fields_of
from ppo_lm.config.files import embedded_settings
from ppo_lm.errors import ConfigError

pytestmark = pytest.mark.fast

KINDS = {"sft": SFTConfig, "reward": RewardConfig, "value": ValueConfig, "train": PPOConfig, "evaluate": EvaluateConfig}


def read(*arguments: str, command: str = "train"):
    return read_config(ConfigParser(KINDS[command], "ppo-lm", "", task=command, general=OF_A_RUN), list(arguments))


def test_options_go_over_files_and_files_over_defaults(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("steps: 7\nkl_coef: 0.3\nmodel_name: some/model\n")
    second.write_text("steps: 8\nlearning_rate: 1e-3\n")
    config = read("--kl_coef", "0.5", "--config", str(first), "--config", str(second))
    assert config == PPOConfig(model_name="some/model", steps=8, kl_coef=0.5, learning_rate=1e-3, output_dir="runs/ppo")


@pytest.mark.parametrize("command", KINDS)
@pytest.mark.parametrize("arguments", [[], ["--config", "embedded"], ["--config=embedded"]])
def test_the_settings_of_the_embedded_task(command, arguments):
    assert read(*arguments, command=command) == KINDS[command](**embedded_settings(command))


def test_the_embedded_task_is_done_where_neither_file_nor_model_is_named(tmp_path, capsys):
    assert read("--steps", "3") == PPOConfig(**embedded_settings("train") | {"steps": 3})
    assert capsys.readouterr().err == (
        "note: no model is named, so this runs on the embedded toy model, with the prompts, reward, value_model, "
        "monitor and settings of the embedded task; name your own with --model_name\n"
    )
    assert read("--model_name", "some/model") == PPOConfig(model_name="some/model", output_dir="runs/ppo")
    assert read("--models", "x", command="evaluate") == EvaluateConfig(models=["x"])
    assert read("--config", "embedded").model_name == "embedded"
    assert capsys.readouterr().err == ""
    (tmp_path / "mine.yaml").write_text("steps: 3\n")
    assert read("--config", str(tmp_path / "mine.yaml")) == PPOConfig(steps=3, output_dir="runs/ppo")
    assert capsys.readouterr().err == "note: model_name is not set, so it is Qwen/Qwen3-0.6B-Base\n"


@pytest.mark.parametrize(
    ("command", "arguments", "taken"),
    [
        ("train", ["--prompts", "mine.txt", "--reward", "sentiment"], "settings"),
        ("train", ["--prompts", "mine.txt"], "reward, value_model and settings"),
        ("train", ["--reward", "sentiment"], "prompts, monitor and settings"),
        ("sft", ["--demonstrations", "mine.jsonl"], "settings"),
        ("reward", ["--preferences", "mine.jsonl"], "settings"),
        ("value", ["--demonstrations", "mine.jsonl"], "reward and settings"),
        ("evaluate", ["--prompts", "mine.txt"], "judge and settings"),
    ],
)
def test_data_or_a_reward_without_a_model_says_that_the_toy_model_is_used_and_with_what(
    command, arguments, taken, capsys
):
    read(*arguments, command=command)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"note: no model is named, so this runs on the embedded toy model, with the {taken} of the embedded task; name "
        f"your own with {'--models' if command == 'evaluate' else '--model_name'}"
    )


def test_the_embedded_settings_with_your_own_model_reward_and_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("steps: 3\nreward: sentiment\n")
    config = read("--config", "embedded", "--config", str(tmp_path / "mine.yaml"), "--model_name", "my/model")
    task = {**embedded_settings("train"), "value_model": None}
    assert config == PPOConfig(**task | {"model_name": "my/model", "reward": "sentiment", "steps": 3})


@pytest.mark.parametrize(
    ("arguments", "value_model"),
    [
        ([], "embedded"),
        (["--reward", "sentiment"], None),
        (["--reward", "embedded", "--reward", "sentiment"], None),
        (["--config", "embedded", "--reward", "sentiment"], None),
        (["--config", "embedded", "--model_name", "my/model"], None),
        (["--config", "embedded", "--model_name", "embedded", "--reward", "embedded"], "embedded"),
        (["--advantage_estimator", "gae"], "embedded"),
        (["--advantage_estimator", "rloo", "--responses_per_prompt", "4"], None),
        (["--advantage_estimator", "mine.py:MINE"], None),
        (["--advantage_estimator", "mine.py:MINE", "--value_model", "embedded"], "embedded"),
        (["--value_backbone", "shared"], None),
        (["--reward", "sentiment", "--value_model", "mine"], "mine"),
    ],
)
def test_the_embedded_value_model_goes_with_what_it_was_trained_for(arguments, value_model):
    assert read(*arguments).value_model == value_model


def test_other_settings_that_suit_only_the_embedded_data():
    assert read("--prompts", "mine.txt").monitor is None
    assert read("--config", "embedded", "--prompts", "mine.txt").monitor is None
    assert read("--prompts", "embedded").monitor == "ppo_lm.embedded.gold:gold"
    assert read("--preferences", "mine.jsonl", command="reward").demonstrations is None
    assert read("--demonstrations", "mine.jsonl", command="sft").demonstrations == "mine.jsonl"


@pytest.mark.parametrize(
    ("arguments", "reward"),
    [
        (["--reward", "a.py:f"], ["a.py:f"]),
        (
            ["--reward", "a.py:f", "--reward=sentiment", "--reward", "length_target(words=30)"],
            ["a.py:f", "sentiment", "length_target(words=30)"],
        ),
        (["--reward", "[a.py:f, sentiment]"], ["a.py:f", "sentiment"]),
        (["--reward", "a.py:f", "--reward", "null"], None),
        (["--reward", "null", "--reward", "a.py:f"], ["a.py:f"]),
        (["--reward", "matches(pattern='^Answer: .*')"], ["matches(pattern='^Answer: .*')"]),
        (["--reward", "[unfinished"], ["[unfinished"]),
    ],
)
def test_an_option_given_several_times_is_a_list(arguments, reward):
    assert read(*arguments).reward == reward


def test_lists_of_numbers_and_of_models():
    config = read("--reward", "a:f", "--reward", "b:g", "--reward_weights", "[1, 0.5]")
    assert config.reward_weights == [1, 0.5]
    assert read("--reward", "a:f", "--reward", "b:g", "--reward_weights", "1", "--reward_weights", "0.5") == config
    assert read("--models", "a=x", "--models", "b=y", command="evaluate").models == ["a=x", "b=y"]


def test_an_option_replaces_the_list_of_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("reward: [a, b]\n")
    assert read("--config", str(tmp_path / "mine.yaml"), "--reward", "c").reward == ["c"]
    assert read("--config", str(tmp_path / "mine.yaml")).reward == ["a", "b"]


def test_values_are_read_by_the_type_of_their_field():
    config = read(
        *("--learning_rate", "1e-3", "--missing_eos_score=-1e-3", "--fast", "false", "--top_k", "20"),
        *("--whiten_advantages", "null", "--output_dir", "null", "--data_subset", "2020", "--prompt_column", "yes"),
        *("--monitor", "remote(url='http://a: b')"),
    )
    assert (config.learning_rate, config.missing_eos_score, config.fast, config.top_k) == (1e-3, -1e-3, False, 20)
    assert config.whiten_advantages is config.output_dir is None
    assert (config.data_subset, config.prompt_column, config.monitor) == ("2020", "yes", "remote(url='http://a: b')")


def test_wrong_values_of_files_and_options_are_reported_at_once_in_the_words_of_the_configuration(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("clip_epsilom: 0.3\ngamma: high\ndata_split: 3\ntop_k: -1\n")
    with pytest.raises(ConfigError) as caught:
        read("--config", str(file), "--steps", "many", "--kl_estimator", "k4", "--fast", "maybe", "--top_k", "1.5")
    assert sorted(caught.value.problems) == [
        "data_split is 3; it must be text",
        "fast is 'maybe'; it must be true or false",
        "gamma is 'high'; it must be a finite number",
        "kl_estimator is 'k4'; it must be one of k1, k2, k3",
        "steps is 'many'; it must be a whole number",
        "there is no field 'clip_epsilom'; did you mean 'clip_epsilon'?",
        "top_k is 1.5; it must be a whole number",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batchsize", "3"], "error: there is no option --batchsize; did you mean '--batch_size'?\n"),
        (
            ["--stepz=3", "--colour", "red"],
            "error: there is no option --stepz; did you mean '--steps'?\n"
            "error: there is no option --colour; `--help` lists them\n",
        ),
        (["--model", "my/model"], "error: there is no option --model; did you mean '--models'?\n"),
        (["--lr", "1e-3"], "error: there is no option --lr; did you mean '--learning_rate'?\n"),
        (["-lr", "1e-3"], "error: there is no option --lr; did you mean '--learning_rate'?\n"),
        (["--learning-rate=1e-3"], "error: there is no option --learning-rate; did you mean '--learning_rate'?\n"),
        (["3"], "error: unexpected argument '3': it follows no option\n"),
        (
            ["mine.yaml"],
            "error: unexpected argument 'mine.yaml': it follows no option; did you mean '--config mine.yaml'?\n",
        ),
        (["--steps"], "error: argument --steps: expected one argument\n"),
    ],
)
def test_an_unknown_option_ends_with_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        read(*arguments, command="evaluate" if "--model" in arguments else "train")
    assert ended.value.code == 2 and capsys.readouterr().err == message


def test_print_config_prints_what_config_reads(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        read("--steps", "3", "--reward", "embedded", "--print_config", "--learning_rate", "1e-7")
    assert ended.value.code == 0
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    assert read("--config", str(file)) == read("--steps", "3", "--reward", "embedded", "--learning_rate", "1e-7")
    assert list(yaml.safe_load(file.read_text())) == list(fields_of(PPOConfig))


def test_a_former_name_works_as_an_option_and_in_a_file(tmp_path, capsys):
    old = tmp_path / "old.yaml"
    old.write_text("kl_target: 6.0\nkl_horizon: 500\nmodel_name: m\n")
    expected = PPOConfig(model_name="m", adaptive_kl_target=6.0, adaptive_kl_horizon=500, output_dir="runs/ppo")
    assert read("--config", str(old)) == expected
    assert read("--kl_target", "6.0", "--kl_horizon=500", "--model_name", "m") == expected
    assert read("--config", str(old), "--adaptive_kl_target", "3") == dataclasses.replace(
        expected, adaptive_kl_target=3
    )
    assert read("--config", str(old), "--kl_target", "3") == dataclasses.replace(expected, adaptive_kl_target=3)


def test_text_stays_text_whatever_yaml_would_read_into_it(tmp_path):
    settings = dict(
        reward="matches(pattern='^Answer: .*')",
        monitor="matches(pattern='a: b')",
        model_name="my/model",
        output_dir="2024",
        data_subset="2020",
        prompt_column="yes",
    )
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    config = read("--config", str(file))
    assert {name: getattr(config, name) for name in settings} == settings
    config = read(*[argument for name, value in settings.items() for argument in (f"--{name}", value)])
    assert {name: getattr(config, name) for name in settings} == {**settings, "reward": [settings["reward"]]}


@pytest.mark.parametrize(("text", "value"), [("-1", -1.0), ("-0.5", -0.5), ("-1e-1", -0.1), ("-2.5E+1", -25.0)])
def test_a_negative_number_is_a_value_not_an_option(text, value):
    assert read("--missing_eos_score", text).missing_eos_score == value


def test_a_command_without_a_folder_writes_to_a_free_one_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    defaults = {"sft": "sft", "reward": "reward", "value": "value", "train": "ppo", "evaluate": "evaluation"}
    for command, name in defaults.items():
        model = ["--models", "m"] if command == "evaluate" else ["--model_name", "m"]
        assert read(*model, command=command).output_dir == f"runs/{name}"
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").write_text("")
        assert capsys.readouterr().err == ""
        assert read(*model, command=command).output_dir == f"runs/{name}-2"
        note = f"note: runs/{name} already holds a run, so output_dir is runs/{name}-2\n"
        assert capsys.readouterr().err == note
        assert read(*model, "--overwrite", command=command).output_dir == f"runs/{name}"
    assert read("--model_name", "m", "--output_dir", "null").output_dir is None
