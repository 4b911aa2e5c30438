"""What `--help` prints, looked at as a reader does."""

import re

import pytest

from ppo_lm.cli.commands import COMMANDS, parser_of
from ppo_lm.cli.options import read_config
from ppo_lm.cli.parser import ConfigParser
from ppo_lm.config import EvaluateConfig
from ppo_lm.config.field_types import Topic
from ppo_lm.config.fields import fields_of, help_texts
from ppo_lm.config.files import EMBEDDED_SETTINGS
from ppo_lm.config.run_settings import WRITES_RUN
from ppo_lm.config.stages import STAGES

pytestmark = pytest.mark.fast

CONFIGS = {
    command: parser.config for command in COMMANDS if isinstance(parser := parser_of(command, command), ConfigParser)
}
WITHOUT_CONFIG = {"config", "completion", "build-embedded"}
with_task = [file.stem for file in EMBEDDED_SETTINGS.iterdir()]
each_config = pytest.mark.parametrize("command", CONFIGS)


def printed_help(command, monkeypatch, columns: int = 80) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    return parser_of(command, f"ppo-lm {command}").format_help()


def options(text: str) -> list[str]:
    return re.findall(r"^  --(\w+)", text, flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_one_style(command, monkeypatch):
    text = printed_help(command, monkeypatch)
    usage, *_, last = re.split(r"\n\n", text.strip())
    assert usage.startswith(f"usage: ppo-lm {command} ")
    assert last.startswith("Exit codes: 0 done; 1 ") and "75 " in last
    assert "  -h, --help " in text and "General options:\n" in text
    assert max(map(len, text.splitlines())) <= 80
    if command not in WITHOUT_CONFIG:
        assert "  --config FILE " in text and "  --print_config " in text
        assert "[--config FILE] [--OPTION VALUE ...]" in usage


@each_config
def test_every_field_is_listed_once_under_its_topic_with_everyday_ones_first(command, monkeypatch):
    config = CONFIGS[command]
    sections = dict(
        re.findall(r"^(\S[^\n]*):\n((?:  [^\n]*\n)+)", printed_help(command, monkeypatch), flags=re.MULTILINE)
    )
    titles = list(sections)
    assert titles[:2] == ["Everyday options", "General options"]
    assert titles[2:] == [topic.value for topic in Topic if topic.value in titles]
    assert len(config.EVERYDAY) == 10 or set(config.EVERYDAY) == set(fields_of(config))
    assert options(sections.pop("Everyday options")) == list(config.EVERYDAY)
    resumable = ["resume", "allow_changes"] * (command in STAGES)
    overwrite = ["overwrite"] * (issubclass(config, WRITES_RUN) and command != "plan")  # it only plans to write
    json = ["json"] * (command in ("evaluate", "doctor", "plan"))
    general = ["config", "print_config", *resumable, *overwrite, *json]
    assert options(sections.pop("General options")) == general
    listed = {name: title for title, section in sections.items() for name in options(section)}
    others = {name: field.topic.value for name, field in fields_of(config).items() if name not in config.EVERYDAY}
    assert listed == others


@each_config
def test_every_field_has_a_help_text_of_whole_sentences(command):
    texts = help_texts(CONFIGS[command])
    assert set(texts) == set(fields_of(CONFIGS[command]))
    assert [name for name, text in texts.items() if not text.endswith(".") or len(text) < 15] == []


@each_config
@pytest.mark.parametrize("columns", [80, 120, 300])
def test_no_line_is_longer_than_the_terminal_or_120_columns(command, columns, monkeypatch):
    text = printed_help(command, monkeypatch, columns)
    assert max(map(len, text.splitlines())) <= min(columns, 120)


def test_an_option_shows_its_choices_and_its_default_as_one_writes_them(monkeypatch):
    text = re.sub(r"\s+", " ", printed_help("train", monkeypatch))
    assert "--kl_estimator {k1,k2,k3} Estimator of" in text and '"Approximating KL divergence"). [k1]' in text
    assert "--learning_rate X Peak learning rate of the policy. [1e-5; toy: 0.001]" in text
    assert "--gradient_checkpointing [true|false] Recompute activations" in text and "more time. [false]" in text
    assert "--top_k N Sample only from the k most likely tokens; 0 for all. [50; toy: 0]" in text
    assert "--reward_weights LIST Weight of each reward" in text
    assert "None" not in text and "kl_target" not in text.replace("adaptive_kl_target", "")
    text = re.sub(r"\s+", " ", printed_help("report", monkeypatch))
    assert "--colour_by NAME What colours the tokens in the terminal. One of kl, rewards, " in text


def test_a_percent_sign_is_printed(monkeypatch):
    assert "5% linear warm-up" in printed_help("sft", monkeypatch, 120)


def test_what_only_some_commands_have_is_shown_by_those_alone(monkeypatch):
    plain = printed_help("collect", monkeypatch)
    general = plain[plain.index("General options") : plain.index("\n\n", plain.index("General options"))]
    assert not any(option in general for option in ("embedded", "--resume", "--overwrite"))
    assert "--resume" not in plain.splitlines()[0]


def test_the_names_of_models_and_folders_may_come_first(monkeypatch):
    first = {"generate": "MODEL ...", "evaluate": "MODEL ...", "report": "FOLDER ...", "doctor": "FOLDER"}
    for command, name in first.items():
        assert f"usage: ppo-lm {command} [{name}] [--config FILE]" in printed_help(command, monkeypatch)
    for command, field in {"generate": "models", "report": "folders"}.items():
        for arguments in (["a", "b=c"], [f"--{field}=a", f"--{field}", "b=c"]):
            assert getattr(read_config(parser_of(command, ""), arguments), field) == ["a", "b=c"]
    assert read_config(parser_of("doctor", ""), ["runs/a"]).folder == "runs/a"


@pytest.mark.parametrize(
    ("command", "arguments", "problem"),
    [
        (
            "generate",
            ["runs/a", "--limit", "5", "runs/b"],
            "unexpected argument 'runs/b': give each MODEL before all options",
        ),
        ("doctor", ["runs/a", "runs/b"], "unexpected argument 'runs/b': only one FOLDER is taken"),
    ],
)
def test_a_name_in_the_wrong_place_says_where_it_goes(command, arguments, problem, capsys):
    with pytest.raises(SystemExit) as ended:
        read_config(parser_of(command, ""), arguments)
    assert ended.value.code == 2 and capsys.readouterr().err == f"error: {problem}\n"


@pytest.mark.parametrize("switch", [["--terminal"], ["--terminal", "true"], ["--terminal=true"]])
def test_a_switch_does_not_take_a_name_for_its_value(switch):
    config = read_config(parser_of("report", ""), [*switch, "a", "b", "--colour_by=kl"])
    assert (config.terminal, config.folders, config.colour_by) == (True, ["a", "b"], "kl")
    assert read_config(parser_of("report", ""), ["--terminal", "false", "a"]).terminal is False
    assert read_config(parser_of("report", ""), ["a", "--terminal"]).terminal is True


def test_a_switch_needs_no_value():
    def read(*arguments):
        return read_config(parser_of("train", ""), ["--model_name=m", "--output_dir=x", *arguments])

    assert read("--gradient_checkpointing").gradient_checkpointing is True
    assert read("--gradient_checkpointing", "--steps", "3") == read("--gradient_checkpointing=true", "--steps=3")
    assert read("--fast", "false").fast is read("--fast=false").fast is False
    assert read("--whiten_advantages", "null").whiten_advantages is None


@pytest.mark.parametrize("command", with_task)
def test_the_defaults_shown_are_those_that_a_command_runs_with(command, monkeypatch):
    """Given as options, the defaults shown make the configuration of a command with a model, and with those after "toy"
    that of a command without one."""
    plain, toy = [], []
    sections = re.split(r"^  --(\w+)", printed_help(command, monkeypatch), flags=re.MULTILINE)
    for name, section in zip(sections[1::2], sections[2::2]):
        brackets = re.search(r"\[([^\]]*)\]\s*$", section.split("\n\n")[0])
        shown = re.sub(r"\s+", " ", re.sub(r"-\s+", "-", brackets[1])).split("; ") if brackets else []
        plain += [f"--{name}={text}" for text in shown if not text.startswith("toy: ")]
        for text in shown:
            values = text.removeprefix("toy: ").split(", ") if text.startswith("toy: ") else []
            toy += [f"--{name}={value}" for value in values]

    def read(*arguments):
        made = read_config(parser_of(command, "ppo-lm"), list(arguments))
        return vars(made) | ({"reward": made.rewards} if hasattr(made, "rewards") else {})

    assert toy and read("--config=embedded") == read(*plain, *toy)
    model = "--models=mine" if CONFIGS[command] is EvaluateConfig else "--model_name=mine"
    assert read(*plain, model) == read(model)
