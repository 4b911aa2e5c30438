import subprocess
import sys
import time

import pytest
import yaml

from ppo_lm.cli.main import EMBEDDED_SETTINGS, main
from ppo_lm.cli.main import read_config as read_any_config
from ppo_lm.config import EvaluateConfig, PPOConfig, RewardConfig, SFTConfig, ValueConfig
from ppo_lm.errors import ConfigError


def read_config(arguments):
    return read_any_config(PPOConfig, arguments, "main.py", "PPO.", "train.yaml")


def run(checkout, *arguments):
    return subprocess.run(
        [sys.executable, "main.py", *arguments], cwd=checkout, capture_output=True, text=True, check=False
    )


def test_help_names_every_field_and_answers_within_a_second(checkout):
    run(checkout, "--help")  # the first start compiles
    times = []
    for _ in range(3):
        started = time.monotonic()
        done = run(checkout, "--help")
        times.append(time.monotonic() - started)
    assert min(times) < 1
    assert done.returncode == 0
    for text in ("--clip_epsilon", "PPO's clip range", "--value_clip", "--prompts", "default: Qwen/Qwen3-0.6B-Base"):
        assert text in " ".join(done.stdout.split())


def test_without_arguments_the_embedded_task_with_its_settings():
    config = read_config([])
    assert config.model_name == config.prompts == config.reward == "embedded"
    settings = yaml.safe_load((EMBEDDED_SETTINGS / "train.yaml").read_text(encoding="utf-8"))
    assert {name: getattr(config, name) for name in settings} == settings


def test_options_go_over_the_file_and_the_file_over_the_defaults(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 7\nkl_coef: 0.3\nmodel_name: some/model\n")
    config = read_config(["--config", str(file), "--kl_coef", "0.5"])
    assert (config.steps, config.kl_coef, config.model_name, config.gamma) == (7, 0.5, "some/model", 0.99)
    assert read_config(["--steps", "3"]).model_name == "embedded"
    named = read_config(["--model_name", "some/model"])
    assert (named.model_name, named.reward, named.learning_rate) == ("some/model", None, 1e-5)


def test_config_embedded_names_the_shipped_settings_of_each_stage():
    shipped = {
        "sft.yaml": SFTConfig,
        "reward.yaml": RewardConfig,
        "value.yaml": ValueConfig,
        "train.yaml": PPOConfig,
        "evaluate.yaml": EvaluateConfig,
    }
    assert {file.name for file in EMBEDDED_SETTINGS.iterdir()} == set(shipped)
    for name, kind in shipped.items():
        settings = yaml.safe_load((EMBEDDED_SETTINGS / name).read_text(encoding="utf-8"))
        for arguments in ([], ["--config", "embedded"], ["--config=embedded"]):
            assert read_any_config(kind, arguments, "ppo-lm", "", name) == kind(**settings)
    named = read_config(["--config", "embedded", "--model_name", "my/model", "--reward", "mine.py:f"])
    assert (named.model_name, named.reward, named.steps, named.monitor) == (
        "my/model",
        ["mine.py:f"],
        80,
        "ppo_lm.embedded.gold:gold",
    )


def test_what_fits_the_embedded_task_alone_goes_with_it():
    assert read_config([]).value_model == "embedded"
    for arguments in (
        ["--reward", "sentiment"],
        ["--config", "embedded", "--reward", "sentiment"],
        ["--config", "embedded", "--model_name", "my/model"],
    ):
        assert read_config(arguments).value_model is None
    assert read_config(["--reward", "sentiment", "--value_model", "mine"]).value_model == "mine"
    assert (
        read_config(
            ["--reward", "embedded", "--model_name", "embedded", "--config", "embedded", "--advantage_estimator", "gae"]
        ).value_model
        == "embedded"
    )
    assert read_config(["--advantage_estimator", "rloo", "--responses_per_prompt", "4"]).value_model is None
    assert read_config(["--value_backbone", "shared"]).value_model is None
    assert (
        read_config(["--prompts", "mine.txt"]).monitor is None
        and read_config(["--config", "embedded", "--prompts", "mine.txt"]).monitor is None
    )


def test_an_option_given_several_times_is_a_list():
    config = read_config(
        [
            "--reward",
            "a.py:f",
            "--reward=sentiment",
            "--reward",
            "length_target(words=30)",
            "--reward_weights",
            "[1, 0.5, 2]",
        ]
    )
    assert config.rewards == ["a.py:f", "sentiment", "length_target(words=30)"]
    assert config.reward_weights == [1, 0.5, 2]
    assert read_config(["--reward", "a.py:f"]).rewards == ["a.py:f"]
    assert read_config(["--reward", "matches(pattern='^Answer: .*')"]).rewards == ["matches(pattern='^Answer: .*')"]
    assert read_config(["--monitor", "remote(url='http://a: b')"]).monitor == "remote(url='http://a: b')"
    assert read_config(["--reward", "a.py:f", "--reward", "null"]).reward is None
    assert read_any_config(RewardConfig, ["--preferences", "mine.jsonl"], "", "", "reward.yaml").demonstrations is None
    with pytest.raises(ConfigError, match="reward_weights has 1 numbers for 2 rewards"):
        read_config(["--reward", "a.py:f", "--reward", "b.py:g", "--reward_weights", "[1]"])
    compared = read_any_config(
        EvaluateConfig, ["--models", "a=x", "--models", "b=y", "--prompts", "p.txt"], "", "", "evaluate.yaml"
    )
    assert compared.models == ["a=x", "b=y"]


def test_all_wrong_values_are_reported_at_once_and_before_any_model_loads(checkout):
    done = run(checkout, "--batch_size", "0", "--top_p", "1.5", "--clip_epsilon=-1")
    assert done.returncode == 1
    assert "3 problems" in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(ConfigError):
        read_config(["--batch_size", "0"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batchsize", "3"], "batchsize"),
        (["--steps", "many"], "steps"),
        (["--config", "no_such.yaml"], "no_such.yaml"),
        (["--config", "{tmp}/unknown.yaml"], "clip_epsilom"),
    ],
)
def test_an_unknown_or_unreadable_setting_is_named(checkout, tmp_path, arguments, message):
    (tmp_path / "unknown.yaml").write_text("clip_epsilom: 0.3\n")
    done = run(checkout, *[a.format(tmp=tmp_path) for a in arguments])
    assert done.returncode != 0
    assert message in done.stderr and "Traceback" not in done.stderr


def test_a_users_mistake_in_the_data_is_one_sentence(checkout, tmp_path):
    done = run(checkout, "--model_name", "embedded", "--prompts", str(tmp_path / "none.txt"))
    assert done.returncode == 1
    assert "there is no such file" in done.stderr and "Traceback" not in done.stderr


def test_subcommands(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "train" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["trian"])
    assert caught.value.code == 2


def test_the_main_job_in_small(checkout, tmp_path):
    """The shipped task from start to finish: two steps, everything written, gold score shown."""
    out = tmp_path / "run"
    done = run(checkout, "--steps", "2", "--batch_size", "8", "--eval_prompts", "8", "--output_dir", str(out))
    assert done.returncode == 0, done.stderr
    for text in (
        "step    2/2",
        "reward",
        "KL",
        "gold",
        "tokens/s",
        "held-out evaluation at step 2",
        "before (",
        "after (",
    ):
        assert text in done.stdout
    assert {path.name for path in out.iterdir()} == {
        "config.yaml",
        "data_report.json",
        "metrics.jsonl",
        "samples.jsonl",
        "learning_curve.png",
        "adapter",
        "merged",
    }
    assert read_config(["--config", str(out / "config.yaml")]).steps == 2


def test_a_text_stays_a_text_whatever_yaml_would_read_into_it(tmp_path):
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
    config = read_config(["--config", str(file)])
    assert {name: getattr(config, name) for name in settings} == settings
    options = [argument for name, value in settings.items() for argument in (f"--{name}", value)]
    config = read_config(options)
    assert {name: getattr(config, name) for name in settings} == {**settings, "reward": [settings["reward"]]}


def test_options_cannot_be_abbreviated():
    with pytest.raises(SystemExit):
        read_config(["--model", "my/model"])
