"""Which folder holds the policy of a run."""

import json

import pytest
import torch

from ppo_lm.errors import ModelError
from ppo_lm.run import find_policy
from ppo_lm.run.checkpoint import Checkpoint, finish_checkpoints, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.fast


def adapter_in(folder):
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_config.json").write_text("{}")


def checkpoint(run, step):
    state = {"step": step, "parts": {}}
    return save_checkpoint(run, step, Checkpoint({"weight": torch.zeros(2)}, state), keep=5, export=adapter_in)


def test_the_newest_intact_checkpoint_counts_until_the_run_is_finished(tmp_path):
    two, four = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4)
    assert find_policy(tmp_path) == (
        four / "adapter",
        f"the run in {tmp_path} is not finished; this is its policy after step 4",
        4,
    )
    (four / "adapter" / "adapter_config.json").write_text("torn")
    assert find_policy(tmp_path).folder == two / "adapter"
    assert load_checkpoint(tmp_path)[1] == [
        f"checkpoint {four} is damaged: adapter/adapter_config.json does not match its checksum; it is kept, and the "
        "one before it is used"
    ]
    adapter_in(tmp_path)
    checkpoint(tmp_path, 6)
    finish_checkpoints(tmp_path)
    assert find_policy(tmp_path) == (
        tmp_path / "adapter",
        f"the policy of the run in {tmp_path} after step 6, its last",
        6,
    )
    extended = checkpoint(tmp_path, 8)
    assert find_policy(tmp_path).folder == extended / "adapter"


def test_a_finished_run_without_checkpoints_has_what_it_saved(tmp_path):
    with pytest.raises(ModelError, match="has no policy: no adapter/, merged/ or checkpoint of one"):
        find_policy(tmp_path)
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "config.json").write_text("{}")
    assert find_policy(tmp_path) == (tmp_path / "merged", f"the policy of the run in {tmp_path}", None)


def test_an_unfinished_run_without_an_adapter_has_none(tmp_path):
    state = {"step": 3, "parts": {}}
    save_checkpoint(tmp_path, 3, Checkpoint({"weight": torch.zeros(2)}, state))
    with pytest.raises(ModelError, match="step-000003 has no adapter that could be loaded"):
        find_policy(tmp_path)
    manifest = json.loads((tmp_path / "checkpoints" / "step-000003" / "manifest.json").read_text())
    assert set(manifest["sha256"]) == {"tensors.safetensors", "state.json"}
