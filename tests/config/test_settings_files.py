import math
import re

import pytest

from ppo_lm.config import EvaluateConfig, PPOConfig, RewardConfig, SFTConfig, ValueConfig
from ppo_lm.config.files import EMBEDDED_SETTINGS, dump_settings, embedded_settings, read_settings
from ppo_lm.data import load_prompts
from ppo_lm.errors import ConfigError
from ppo_lm.reading import parse_yaml

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("-1E+3", -1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("0.5e1", 5.0),
        ("12", 12),
        (".inf", math.inf),
        ("true", True),
        ("null", None),
        ("2024-01-31", "2024-01-31"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        ("[1, 2e-1, a]", [1, 0.2, "a"]),
    ],
)
def test_numbers_are_numbers_and_dates_are_text(text, value):
    assert parse_yaml(text) == value and type(parse_yaml(text)) is type(value)


def test_settings_are_read_as_they_were_written(tmp_path):
    texts = ["1e5", "1e-5", "2024-01-31", "yes", "null", "12", "[a]", "é: #", " ", ".5", "-"]
    for text in texts:
        weights = [1e-05, 1e22, 0.1, -2.5e-9, 3] + [1] * 6
        stops = ["\n", "\n\n", "\t", "[INST]", "null", "🙂"]
        config = PPOConfig(output_dir=text, reward=texts, reward_weights=weights, stop_strings=stops)
        (tmp_path / "config.yaml").write_text(dump_settings(config), encoding="utf-8")
        assert PPOConfig(**read_settings(tmp_path / "config.yaml", "")) == config


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: it does not exist"),
        (b"a: [1,\nb: 2", "cannot be read: it is not YAML: line 2: "),
        (b"\xff\xfe", "cannot be read: "),
        (b"just text", "has no settings; write one `field: value` per line"),
        (b"3: 4", "has no settings"),
    ],
)
def test_a_file_that_cannot_be_read_is_reported_in_one_sentence(tmp_path, content, problem):
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_settings(file, "--config")
    assert len(caught.value.problems) == 1 and caught.value.problems[0].startswith(f"{file} {problem}")


COMMANDS = {"sft": SFTConfig, "reward": RewardConfig, "value": ValueConfig, "train": PPOConfig}
COMMANDS |= {"evaluate": EvaluateConfig}


def test_each_command_has_settings_for_the_embedded_task():
    assert {file.stem for file in EMBEDDED_SETTINGS.iterdir()} == set(COMMANDS)
    for command, config in COMMANDS.items():
        config(**embedded_settings(command))


FOLDERS = ["embedded", "smollm2_posts", "smollm2_sentiment", "tldr"]


def test_the_readme_of_the_configs_describes_each_folder(checkout):
    assert sorted(path.name for path in (checkout / "configs").iterdir() if path.is_dir()) == FOLDERS
    text = (checkout / "configs" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[`(\w+)`\]\([^)]*\) \| (.*) \|$", text, flags=re.MULTILINE))
    assert sorted(rows) == FOLDERS and "**never**" in rows["tldr"]
    for folder, row in rows.items():
        named = set(re.findall(r"`(\w+)`", row.split(" | ")[1]))
        assert named == {file.stem for file in (checkout / "configs" / folder).glob("*.yaml")}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_settings_in_the_checkout_are_read_by_their_commands_and_name_their_data(folder, checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    files = sorted(checkout.glob(f"configs/{folder}/*.yaml"))
    assert files
    for file in files:
        settings = read_settings(file, str(file))
        config = COMMANDS[file.stem](**settings)
        sources = [settings[name] for name in ("prompts", "demonstrations", "preferences") if name in settings]
        local = [source for source in sources if source != "embedded" and not source.startswith("trl-lib/")]
        assert sources and all(len(load_prompts(source, config)[0]) > 100 for source in local)


@pytest.mark.parametrize("folder", ["smollm2_posts", "tldr"])
def test_a_stage_reads_what_an_earlier_one_writes(folder, checkout):
    written: set[str] = set()
    for stage in ("sft", "reward", "train", "evaluate"):
        settings = read_settings(checkout / "configs" / folder / f"{stage}.yaml", "")
        named = [settings.get(name, "") for name in ("model_name", "reward", "judge")] + settings.get("models", [])
        paths = [name.split("=")[-1] for name in named if "runs/" in name]
        assert bool(paths) == (stage != "sft")
        assert [path for path in paths if not any(path.startswith(folder) for folder in written)] == []
        written.add(settings["output_dir"])
