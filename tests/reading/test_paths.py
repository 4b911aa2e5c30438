"""A path that a user wrote is a path, or one sentence names the setting and says what to do."""

import os

import pytest

from ppo_lm import PPOConfig
from ppo_lm.cli.main import main
from ppo_lm.errors import CheckpointError, ConfigError, DataError, ModelError, UserError
from ppo_lm.ppo_trainer.inputs import load_inputs
from ppo_lm.reading import as_path, user_path
from ppo_lm.run import Checkpoint, find_policy, load_checkpoint, save_checkpoint
from tests.conftest import permissions_that_hold
from tests.fuzz.hostile import PATHS, hostile_paths

pytestmark = pytest.mark.fast


def rows(folder):
    """A file that every command can read."""
    file = folder / "rows.jsonl"
    file.write_text('{"prompt": "TL;DR:", "completion": " I quit.", "chosen": " I quit.", "rejected": " No."}\n' * 4)
    return file


def replaced(argument, given):
    for mark, text in given.items():
        argument = argument.replace(mark, text)
    return argument


def test_a_text_that_is_no_path_is_refused_in_one_sentence(tmp_path):
    for name, text in hostile_paths(tmp_path).items():
        with pytest.raises(DataError, match="^prompts is .*; |^prompts is .*, which ") as caught:
            user_path(text, "prompts", DataError)
        assert len(str(caught.value)) < 250, name
        assert as_path(text) is None


@pytest.mark.parametrize(
    ("name", "problem"),
    {
        "no such user": "but there is no such user; write the whole path instead of ~",
        "a long name": "too long for a path",
        "a long path": "too long for a path",
        "null character": "contains a null character",
        "lone surrogate": "is not UTF-8",
        "a loop of links": "a symbolic link that leads back to itself",
        "a broken link": "a symbolic link to '.*nowhere', where there is nothing",
        "empty": "which is empty; name a file or folder",
    }.items(),
)
def test_what_is_wrong_with_a_path_is_said(name, problem, tmp_path):
    with pytest.raises(ConfigError, match=problem):
        user_path(hostile_paths(tmp_path)[name], "output_dir")


def test_ordinary_paths_are_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").write_text("")
    for text in (".", "/", "..", "new/folder", "owner/name", str(tmp_path / "file"), str(tmp_path / "file" / "below")):
        assert str(user_path(text, "x")) == text and as_path(text) == user_path(text, "x")
    assert user_path("~/folder", "x") == tmp_path / "folder"


@pytest.mark.parametrize("option", ["prompts", "model_name", "output_dir", "reward", "value_model", "monitor"])
def test_every_setting_of_ppo_that_names_a_path_is_checked_before_a_model_loads(option, tmp_path):
    for name, text in hostile_paths(tmp_path).items():
        if "blank" in name or name == "empty":
            continue  # refused as settings, or not a path
        with pytest.raises(UserError, match=f"(?s){option}") as caught:
            load_inputs(PPOConfig(**{"prompts": str(rows(tmp_path)), option: [text] if option == "reward" else text}))
        assert type(caught.value) is not UserError


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor", "{}"],
        ["train", "--resume={}"],
        ["train", "--config={}"],
        ["sft", "--demonstrations={}", "--model_name=embedded", "--output_dir={folder}/run"],
        ["sft", "--model_name={}", "--demonstrations={rows}", "--rouge_samples=0", "--output_dir={folder}/run"],
        ["train", "--prompts={rows}", "--model_name=embedded", "--output_dir={}"],
        ["collect", "--pairs={}", "--output_dir={folder}/run"],
        ["evaluate", "--models=a={}", "--models=b=embedded", "--prompts={rows}", "--output_dir={folder}/run"],
        ["value", "--reward={}", "--model_name=embedded", "--demonstrations={rows}", "--output_dir={folder}/run"],
    ],
    ids=lambda arguments: " ".join(argument.partition("=")[0] for argument in arguments[:2]),
)
def test_no_command_ends_in_a_traceback(arguments, name, tmp_path, capsys):
    given = {"{}": PATHS[name], "{folder}": str(tmp_path), "{rows}": str(rows(tmp_path))}
    with pytest.raises(SystemExit) as ended:
        main([replaced(argument, given) for argument in arguments])
    error = capsys.readouterr().err
    assert ended.value.code in (1, 2) and "error: " in error and "\0" not in error


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_file_for_a_folder_and_a_folder_for_a_file(kind, tmp_path, capsys):
    place = tmp_path / kind
    place.mkdir() if kind == "folder" else place.write_text("x")
    commands = [["train", f"--config={place}"], ["doctor", str(place)], ["train", f"--resume={place}"]]
    data, out = f"--demonstrations={rows(tmp_path)}", f"--output_dir={tmp_path / 'run'}"
    commands.append(["sft", data, out, f"--model_name={place}", "--rouge_samples=0"])
    for arguments in commands:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 1 and str(place) in capsys.readouterr().err
    assert not os.path.exists(tmp_path / "run")


READS = {
    "prompts": ["train", "--prompts={}", "--model_name=embedded", "--output_dir={folder}/run"],
    "a file of prompts": ["train", "--prompts={}/rows.jsonl", "--model_name=embedded", "--output_dir={folder}/run"],
    "model": ["train", "--model_name={}", "--prompts={rows}", "--output_dir={folder}/run"],
    "reward": ["train", "--reward={}/mine.py:score", "--prompts={rows}", "--model_name=embedded"],
    "output folder": ["train", "--output_dir={}/run", "--prompts={rows}", "--model_name=embedded"],
    "config": ["train", "--config={}/mine.yaml"],
    "run to resume": ["train", "--resume={}"],
    "run to examine": ["doctor", "{}"],
    "demonstrations": ["sft", "--demonstrations={}", "--model_name=embedded", "--output_dir={folder}/run"],
    "compared model": ["evaluate", "--models=a={}", "--models=b=embedded", "--prompts={rows}"],
    "pairs": ["collect", "--pairs={}", "--output_dir={folder}/run"],
}


@pytest.fixture
def locked(tmp_path):
    """A folder that may not be read, where even root is held to that."""
    folder = tmp_path / "locked"
    folder.mkdir()
    with permissions_that_hold():
        folder.chmod(0)
        yield folder
        folder.chmod(0o700)


@pytest.mark.parametrize("name", READS)
def test_a_folder_that_may_not_be_read_is_named_with_what_to_do(name, locked, tmp_path, capsys):
    given = {"{}": str(locked), "{folder}": str(tmp_path), "{rows}": str(rows(tmp_path))}
    with pytest.raises(SystemExit) as ended:
        main([replaced(argument, given) for argument in READS[name]])
    error = capsys.readouterr().err
    assert ended.value.code == 1 and str(locked) in error
    assert (
        "which is a folder that you may not read; change its permissions" in error or "check its permissions" in error
    )
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_may_not_be_read_is_left_alone_and_the_one_before_it_is_used(locked, tmp_path):
    saved = [save_checkpoint(tmp_path, step, Checkpoint({}, {"step": step, "parts": {}}), keep=5) for step in (1, 2)]
    saved[1].chmod(0)
    checkpoint, damage = load_checkpoint(tmp_path)
    assert checkpoint.state["step"] == 1 and "step-000002 is damaged: manifest.json" in damage[0]
    save_checkpoint(tmp_path, 3, Checkpoint({}, {"step": 3, "parts": {}}), keep=1)
    assert saved[1].exists() and not saved[0].exists()
    (tmp_path / "checkpoints" / "step-000003").chmod(0)
    with pytest.raises(CheckpointError, match="all checkpoints in it are damaged"):
        load_checkpoint(tmp_path)
    for path in (tmp_path / "checkpoints").iterdir():
        path.chmod(0o700)


def test_the_policy_of_a_run_that_may_not_be_read_is_named(locked, tmp_path):
    locked.rename(tmp_path / "adapter")
    with pytest.raises(ModelError, match="adapter', which is a folder that you may not read; change its permissions"):
        find_policy(tmp_path)
    (tmp_path / "adapter").rename(locked)


def test_the_current_folder_and_the_root_are_folders_like_any_other(tmp_path, monkeypatch, capsys):
    data = rows(tmp_path)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    arguments = [f"--demonstrations={data}", "--model_name=embedded", "--lora_r=2", "--max_steps=1", "--held_out=0"]
    arguments = ["sft", *arguments, "--rouge_samples=0"]
    main([*arguments, "--output_dir=."])
    assert (tmp_path / "mine" / "adapter" / "adapter_config.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "mine"}
    for place, problem in {".": "already holds a run", "/": "is not empty, and holds no run"}.items():
        with pytest.raises(SystemExit) as ended:
            main([*arguments, f"--output_dir={place}"])
        assert ended.value.code == 1 and f"output_dir '{place}' {problem}" in capsys.readouterr().err
