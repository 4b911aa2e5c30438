"""What `--help` prints, looked at as a reader does."""

import re

import pytest

from ppo_lm.cli.options import read_config
from ppo_lm.cli.parser import config_parser
from ppo_lm.config import CollectConfig, EvaluateConfig, PPOConfig, RewardConfig, SFTConfig, ValueConfig
from ppo_lm.config.field_types import Topic
from ppo_lm.config.fields import fields_of, help_texts

pytestmark = pytest.mark.fast

COMMANDS = {
    SFTConfig: "sft",
    RewardConfig: "reward",
    ValueConfig: "value",
    PPOConfig: "train",
    EvaluateConfig: "evaluate",
    CollectConfig: None,  # has no settings for the embedded task
}
CONFIGS = list(COMMANDS)
each_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)


def printed_help(config, monkeypatch, columns: int = 80) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    return config_parser(config, "ppo-lm", "About.", task=COMMANDS[config], resumable=True).format_help()


def options(text: str) -> list[str]:
    return re.findall(r"^  --(\w+)", text, flags=re.MULTILINE)


@each_config
def test_every_field_is_listed_once_under_its_topic_with_everyday_ones_first(config, monkeypatch):
    sections = dict(
        re.findall(r"^(\S[^\n]*):\n((?:  [^\n]*\n)+)", printed_help(config, monkeypatch), flags=re.MULTILINE)
    )
    titles = list(sections)
    assert titles[:2] == ["Everyday options", "General options"]
    assert titles[2:] == [topic.value for topic in Topic if topic.value in titles]
    assert 9 <= len(config.EVERYDAY) <= 10
    assert options(sections.pop("Everyday options")) == list(config.EVERYDAY)
    general = ["config", "print_config", "resume", "allow_changes"] + ["overwrite"] * (config is not CollectConfig)
    assert options(sections.pop("General options")) == general
    listed = {name: title for title, section in sections.items() for name in options(section)}
    others = {name: field.topic.value for name, field in fields_of(config).items() if name not in config.EVERYDAY}
    assert listed == others


@each_config
def test_every_field_has_a_help_text_of_whole_sentences(config):
    texts = help_texts(config)
    assert set(texts) == set(fields_of(config))
    assert [name for name, text in texts.items() if not text.endswith(".") or len(text) < 15] == []


@each_config
@pytest.mark.parametrize("columns", [80, 120, 300])
def test_no_line_is_longer_than_the_terminal_or_120_columns(config, columns, monkeypatch):
    text = printed_help(config, monkeypatch, columns)
    assert max(map(len, text.splitlines())) <= min(columns, 120)


def test_an_option_shows_its_choices_and_its_default_as_one_writes_them(monkeypatch):
    text = re.sub(r"\s+", " ", printed_help(PPOConfig, monkeypatch))
    assert "--kl_estimator {k1,k2,k3} Estimator of" in text and '"Approximating KL divergence"). [k1]' in text
    assert "--learning_rate X Peak learning rate of the policy. [1e-5; toy: 0.001]" in text
    assert "--gradient_checkpointing {true,false} Recompute activations" in text and "more time. [false]" in text
    assert "--top_k N Sample only from the k most likely tokens; 0 for all. [50; toy: 0]" in text
    assert "--reward_weights LIST Weight of each reward" in text
    assert "None" not in text and "kl_target" not in text.replace("adaptive_kl_target", "")


def test_a_percent_sign_is_printed(monkeypatch):
    assert "5% linear warm-up" in printed_help(SFTConfig, monkeypatch, 120)


def test_what_only_some_commands_have_is_shown_by_those_alone(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    plain = config_parser(CollectConfig, "ppo-lm", "").format_help()
    general = plain[plain.index("General options") : plain.index("\n\n", plain.index("General options"))]
    assert not any(option in general for option in ("embedded", "--resume", "--overwrite"))
    assert "--resume" not in plain.splitlines()[0]


@pytest.mark.parametrize("config", [config for config, command in COMMANDS.items() if command])
def test_the_defaults_shown_are_those_that_a_command_runs_with(config, monkeypatch):
    """Given as options, the defaults shown make the configuration of a command with a model, and with those after "toy"
    that of a command without one."""
    plain, toy = [], []
    sections = re.split(r"^  --(\w+)", printed_help(config, monkeypatch), flags=re.MULTILINE)
    for name, section in zip(sections[1::2], sections[2::2]):
        brackets = re.search(r"\[([^\]]*)\]\s*$", section.split("\n\n")[0])
        shown = re.sub(r"\s+", " ", re.sub(r"-\s+", "-", brackets[1])).split("; ") if brackets else []
        plain += [f"--{name}={text}" for text in shown if not text.startswith("toy: ")]
        for text in shown:
            values = text.removeprefix("toy: ").split(", ") if text.startswith("toy: ") else []
            toy += [f"--{name}={value}" for value in values]

    def read(*arguments):
        made = read_config(config, list(arguments), "ppo-lm", "", COMMANDS[config])
        return vars(made) | ({"reward": made.rewards} if hasattr(made, "rewards") else {})

    assert toy and read("--config=embedded") == read(*plain, *toy)
    model = "--models=mine" if config is EvaluateConfig else "--model_name=mine"
    assert read(*plain, model) == read(model)
