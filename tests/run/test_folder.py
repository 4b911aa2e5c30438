"""The folder of a run."""

import pytest

from ppo_lm.run import make_run_folder

pytestmark = pytest.mark.fast


def test_a_folder_that_holds_a_run_is_not_used_again(tmp_path):
    first, lock = make_run_folder(tmp_path / "run")
    assert first == tmp_path / "run"
    assert make_run_folder(tmp_path / "run")[0] == tmp_path / "run-2"  # the first is empty, but held
    lock.release()
    assert make_run_folder(tmp_path / "run")[0] == first  # still empty
    (first / "config.yaml").write_text("")
    assert make_run_folder(tmp_path / "run")[0] == tmp_path / "run-2"
