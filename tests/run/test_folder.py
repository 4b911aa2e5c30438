"""The folder of a run."""

import json
import re
import signal

import pytest

from ppo_lm.cli.main import main
from ppo_lm.cli.options import read_config
from ppo_lm.cli.train import make_parser
from ppo_lm.config import SFTConfig
from ppo_lm.errors import ConfigError, UserError
from ppo_lm.run import Checkpoint, check_output_dir, make_run_folder, save_checkpoint
from ppo_lm.run.folder import unlock
from tests.conftest import killed_in_a_removal

pytestmark = pytest.mark.fast


COMMANDS = {  # with a model that would have to be fetched
    "sft": "--model_name=nobody/none --demonstrations={rows}",
    "reward": "--model_name=nobody/none --preferences={rows}",
    "value": "--model_name=nobody/none --demonstrations={rows} --reward=length_target(words=3)",
    "train": "--model_name=nobody/none --prompts={rows} --reward=length_target(words=3)",
    "evaluate": "--models=a=nobody/none --models=b=nobody/other --prompts={rows}",
    "collect": "--pairs={rows}",
}


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    unlock(make_run_folder(folder))
    (folder / "config.yaml").write_text("seed: 1\n")
    (folder / "adapter").mkdir()
    (folder / "adapter" / "weights").write_text("w")
    return folder


def refusal(folder, **options):
    with pytest.raises(ConfigError) as caught:
        check_output_dir(SFTConfig(output_dir=str(folder), **options.pop("settings", {})), **options)
    return str(caught.value)


def test_a_folder_in_use_by_another_run_is_refused(tmp_path):
    lock = make_run_folder(tmp_path / "run")
    with pytest.raises(UserError, match="in use by another process"):
        make_run_folder(tmp_path / "run")
    unlock(lock)
    unlock(make_run_folder(tmp_path / "run"))  # still empty


def test_a_folder_that_holds_a_run_is_refused_with_the_ways_out(run_folder):
    assert refusal(run_folder) == (
        f"output_dir '{run_folder}' already holds a run; choose another folder, or replace it with --overwrite"
    )
    save_checkpoint(run_folder, 10, Checkpoint({}, {}))
    assert f"continue it with --resume {run_folder}" in refusal(run_folder)
    with pytest.raises(ConfigError, match="already holds a run"):
        make_run_folder(run_folder)
    assert (run_folder / "adapter" / "weights").read_text() == "w"
    check_output_dir(SFTConfig(output_dir=str(run_folder)), resume=run_folder)


def test_overwriting_removes_the_run_and_nothing_else(run_folder):
    (run_folder / "notes.txt").write_text("mine")
    for export in ("export", "export-2", "export-12"):
        (run_folder / export / "adapter").mkdir(parents=True)
    check_output_dir(SFTConfig(output_dir=str(run_folder)), overwrite=True)
    lock = make_run_folder(run_folder, overwrite=True)
    assert {path.name for path in run_folder.iterdir()} == {"notes.txt", ".lock"}
    with pytest.raises(UserError, match="in use"):
        make_run_folder(run_folder, overwrite=True)
    unlock(lock)


def test_a_link_in_a_run_is_removed_but_not_what_it_points_to(run_folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "model").write_text("kept")
    (run_folder / "merged").symlink_to(elsewhere)
    unlock(make_run_folder(run_folder, overwrite=True))
    assert not (run_folder / "merged").is_symlink()
    assert (elsewhere / "model").read_text() == "kept"


def test_a_run_whose_overwriting_was_killed_can_be_overwritten(run_folder):
    assert killed_in_a_removal(1, make_run_folder, run_folder, overwrite=True) == -signal.SIGKILL
    assert "already holds a run" in refusal(run_folder)
    unlock(make_run_folder(run_folder, overwrite=True))
    assert list(run_folder.iterdir()) == []


def test_a_folder_whose_process_was_killed_while_it_wrote_the_config_is_free(tmp_path):
    (tmp_path / ".config.yaml.unfinished").write_text("seed")
    unlock(make_run_folder(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_no_run_wrote_is_never_replaced(tmp_path, run_folder, overwrite):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    assert "is not empty, and holds no run" in refusal(tmp_path / "thesis", overwrite=overwrite)
    (run_folder / "answers.jsonl").write_text("{}\n")
    assert "holds answers of `ppo-lm collect`" in refusal(run_folder, overwrite=overwrite)


def test_a_run_does_not_overwrite_its_own_inputs(run_folder):
    (run_folder / "reward.py").write_text("def score(): ...")
    settings = {"model_name": str(run_folder / "adapter"), "recorders": [f"{run_folder / 'reward.py'}:score"]}
    settings["completion_column"] = "~nosuchuser/" + "x" * 5000  # not a path
    message = refusal(run_folder, settings=settings, overwrite=True)
    assert "cannot be overwritten, because recorders and model_name is in it" in message


def test_a_default_folder_that_is_taken_is_not_used_and_the_program_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def read(*arguments):
        return read_config(make_parser("ppo-lm train"), list(arguments)).output_dir

    assert read() == "runs/embedded"
    (tmp_path / "runs" / "embedded").mkdir(parents=True)
    (tmp_path / "runs" / "embedded" / "config.yaml").write_text("")
    capsys.readouterr()
    assert read() == "runs/embedded-2"
    assert "runs/embedded already holds a run, so output_dir is runs/embedded-2" in capsys.readouterr().err
    assert read("--output_dir", "runs/embedded") == "runs/embedded"  # named, so it is refused later
    assert read("--overwrite") == "runs/embedded"
    assert "goes to" not in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_folder_that_holds_a_run_before_a_model_loads(command, run_folder, capsys):
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    rows = run_folder.parent / "rows.jsonl"
    text = dict(prompt="TL;DR:", completion=" I quit.", chosen=" I quit.", rejected=" No.")
    rows.write_text(json.dumps({**text, "completion_a": " I quit.", "completion_b": " No."}))
    with pytest.raises(SystemExit) as ended:
        main([command, *COMMANDS[command].format(rows=rows).split(), f"--output_dir={run_folder}"])
    said = capsys.readouterr().err
    assert ended.value.code == 1 and re.search(
        f"output_dir '{run_folder}' (already )?holds a run; choose another", said
    )
    assert ("--overwrite" in said) == (command != "collect")
    assert {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()} == before
    assert {path.name for path in run_folder.parent.iterdir()} == {"run", "rows.jsonl"}
