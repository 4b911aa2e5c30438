"""`ppo-lm config`: files of settings to edit."""

import re

import pytest
import yaml

from ppo_lm.cli.commands import COMMANDS, parser_of
from ppo_lm.cli.main import main
from ppo_lm.cli.options import read_config
from ppo_lm.cli.parser import ConfigParser
from ppo_lm.config import PPOConfig
from ppo_lm.config.fields import fields_of, help_texts

pytestmark = pytest.mark.fast

CONFIGS = {
    command: parser.config for command in COMMANDS if isinstance(parser := parser_of(command, command), ConfigParser)
}


def printed(capsys, *arguments: str) -> str:
    main(["config", *map(str, arguments)])
    return capsys.readouterr().out


@pytest.mark.parametrize("command", CONFIGS)
def test_the_template_changes_nothing_until_it_is_edited(command, capsys):
    """As it is, it sets nothing; with every setting un-commented, it sets the defaults."""
    text, fields = printed(capsys, command), fields_of(CONFIGS[command])
    assert yaml.safe_load(text) is None
    edited = yaml.safe_load(re.sub(r"^#(?=\w)", "", text, flags=re.MULTILINE))
    assert edited == {name: field.default for name, field in fields.items()}
    assert list(edited)[: len(CONFIGS[command].EVERYDAY)] == list(CONFIGS[command].EVERYDAY)
    assert max(map(len, text.splitlines())) <= 80
    plain = " ".join(text.replace("#", "").split())
    assert [name for name, help_text in help_texts(CONFIGS[command]).items() if help_text not in plain] == []


def test_what_is_given_is_set(tmp_path, capsys):
    mine = tmp_path / "mine.yaml"
    mine.write_text("kl_target: 6.0\nreward: [sentiment, mine.py:score]\nsteps: 100\n")
    options = ["--config", mine, "--model_name", "my/model", "--monitor", "matches(pattern='a: b')", "--fast", "false"]
    made = tmp_path / "made.yaml"
    made.write_text(printed(capsys, "train", *options))
    assert yaml.safe_load(made.read_text()) == {
        "adaptive_kl_target": 6.0,
        "reward": ["sentiment", "mine.py:score"],
        "steps": 100,
        "model_name": "my/model",
        "monitor": "matches(pattern='a: b')",
        "fast": False,
    }
    again = read_config(parser_of("train", ""), ["--config", str(made), "--output_dir", "x"])
    assert again == read_config(parser_of("train", ""), [*map(str, options), "--output_dir", "x"])


def test_only_what_is_not_the_default(tmp_path, capsys):
    mine = tmp_path / "config.yaml"
    mine.write_text(yaml.safe_dump(vars(PPOConfig(steps=7, reward=["sentiment"], output_dir="runs/mine"))))
    text = printed(capsys, "train", "--config", mine, "--changed")
    assert yaml.safe_load(text) == {"steps": 7, "reward": ["sentiment"], "output_dir": "runs/mine"} and "#" not in text
    assert printed(capsys, "train", "--steps", "100", "--changed") == ""
    assert yaml.safe_load(printed(capsys, "value", "--config", "embedded", "--changed"))["model_name"] == "embedded"


def test_all_problems_of_a_file_are_reported_at_once(tmp_path, capsys):
    mine = tmp_path / "mine.yaml"
    mine.write_text("learning_rat: 1e-3\nsteps: 0\ngamma: high\n")
    with pytest.raises(SystemExit) as ended:
        main(["config", "train", "--config", str(mine)])
    out, err = capsys.readouterr()
    assert ended.value.code == 1 and out == ""
    assert err == (
        f"error: {mine}: 3 problems:\n"
        "  - there is no field 'learning_rat'; did you mean 'learning_rate'?\n"
        "  - gamma is 'high'; it must be a finite number\n"
        "  - steps is 0; it must be at least 1\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no command is named; write, for example: ppo-lm config train"),
        (["trian"], "'trian' is not a command with settings; did you mean 'train'?"),
        (["build-embedded"], "'build-embedded' is not a command with settings; `--help` lists them"),
        (["train", "--stpes", "3"], "there is no option --stpes; did you mean '--steps'?"),
        (["train", "--resume", "x"], "there is no option --resume; `--help` lists them"),
    ],
)
def test_a_mistake_ends_with_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["config", *arguments])
    assert ended.value.code == 2 and capsys.readouterr().err == f"error: {message}\n"
