"""What a user reads of an error, and with which exit code."""

import sys

import pytest
import torch
from matplotlib.figure import Figure
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from ppo_lm.errors import (
    ConfigError,
    DataError,
    NumericalFault,
    Problems,
    RewardError,
    RunPaused,
    RunStopped,
    StorageError,
    UserError,
    first_line,
    require,
    show_user_errors_as_one_sentence,
    writing,
)
from tests.conftest import files_up_to

pytestmark = pytest.mark.fast


def fail(error: Exception):
    raise error


def test_each_kind_of_end_has_the_exit_code_of_sysexits():
    codes = {kind: kind("x").exit_code for kind in (UserError, DataError, NumericalFault)}
    codes |= {kind: kind("x").exit_code for kind in (RunStopped, StorageError, RunPaused)}
    assert list(codes.values()) == [1, 1, 1, 70, 74, 75]


def test_all_problems_are_reported_at_once_and_a_single_one_as_it_is():
    problems = Problems("PPOConfig")
    problems.raise_all()
    assert problems.attempt(lambda a, b: a + b, 1, 2) == 3
    first = DataError("no such file")
    assert problems.attempt(fail, first) is None
    with pytest.raises(DataError) as single:
        problems.raise_all()
    assert single.value is first
    problems.attempt(fail, ConfigError(["one", "two"]))
    with pytest.raises(ConfigError) as several:
        problems.raise_all()
    assert str(several.value) == "PPOConfig: 3 problems:\n  - no such file\n  - one\n  - two"
    assert str(ConfigError.of("one")) == "one"
    assert str(ConfigError(["one"], "SFTConfig")) == "SFTConfig: one"
    with pytest.raises(KeyError):
        problems.attempt(fail, KeyError("not the user's mistake"))


def test_a_file_that_cannot_be_written_is_named_with_the_systems_reason(tmp_path):
    with (
        pytest.raises(StorageError, match="none/file cannot be written: No such file or directory"),
        writing(tmp_path / "none" / "file"),
    ):
        (tmp_path / "none" / "file").write_text("")
    said = "/f cannot be written: disk full; free some space or fix the path$"
    with pytest.raises(StorageError, match=said), writing(tmp_path / "f"):
        fail(SafetensorError("disk full.\nand more"))
    with pytest.raises(ValueError, match="other"), writing(tmp_path):
        fail(ValueError("other"))


def test_a_file_that_is_cut_short_is_named_with_the_systems_reason_whichever_library_writes_it(tmp_path):
    file = tmp_path / "file"
    for save in (
        lambda: Tokenizer(WordLevel({"a": 0})).save(str(file)),
        lambda: save_file({"w": torch.ones(9)}, file),
        lambda: Figure().savefig(file, format="png"),
        lambda: file.write_text("text"),
    ):
        with (
            files_up_to(0),
            pytest.raises(StorageError, match="/file cannot be written: File too large; free"),
            writing(file),
        ):
            save()


def test_a_missing_package_is_named_with_the_extra_that_installs_it():
    require("json", "reward x", "none")
    with pytest.raises(
        UserError, match=r"^reward x needs the package no_such; install it with `pip install 'ppo-lm\[y\]'`$"
    ):
        require("no_such", "reward x", "y")


def test_the_first_line_of_another_librarys_error():
    assert first_line(ValueError("\nIt is so.\nHint: no.")) == "It is so"
    assert first_line(ValueError()) == "ValueError"


def test_a_script_prints_the_sentence_of_a_users_mistake_and_the_traceback_of_any_other_error(monkeypatch, capsys):
    others = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: others.append(error))
    show_user_errors_as_one_sentence()
    sys.excepthook(RewardError, RewardError("the judge is out"), None)
    assert capsys.readouterr().err == "error: the judge is out\n" and others == []
    sys.excepthook(KeyError, KeyError("x"), None)
    assert [kind for kind, *_ in others] == [KeyError]
