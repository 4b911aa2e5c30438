"""Files that cannot be written, and folders that are in use."""

import errno
import gc
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from ppo_lm.errors import RunPaused, StorageError, UserError
from ppo_lm.run import load_checkpoint, lock_run_folder, make_run_folder
from tests.conftest import FORKED, FULL, needs_full
from tests.ppo_trainer.conftest import PROMPTS, Signals, end_alike, make


@needs_full
@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_a_full_disk_while_logging_ends_the_run_with_a_sentence_and_it_can_be_resumed(
    folder, undisturbed, tmp_path, name
):
    parts = tmp_path / "parts"
    expected, whole = undisturbed(Signals, save_every=2)
    trainer = make(folder, parts, Signals(), save_every=2)
    step, calls = trainer.ppo_step, []

    def filling(prompts, columns=None):
        calls.append(1)
        if len(calls) == 4:
            (parts / name).rename(tmp_path / "kept")
            (parts / name).symlink_to(FULL)
        return step(prompts, columns)

    trainer.ppo_step = filling
    with pytest.raises(
        StorageError, match=f"{name} cannot be written: No space left on device; free some space"
    ) as full:
        trainer.train(PROMPTS)
    assert full.value.exit_code == 74
    assert f"The last checkpoint is {parts / 'checkpoints' / 'step-000002'}; continue from it with:" in str(full.value)
    (parts / name).unlink()
    (tmp_path / "kept").rename(parts / name)
    assert make(folder, parts, Signals(), save_every=2).train(PROMPTS, resume=parts) == expected
    end_alike(parts, whole)


FLUSHES = 13  # of a checkpoint: three files, adapter/ and value/ with three each, the folder, the folder above


@pytest.mark.parametrize(
    "fails", [1, 12, 13, 14]
)  # the place among the flushes: of files, of the folder, of the folder above; of the second checkpoint
def test_a_full_disk_while_saving_a_checkpoint_keeps_the_one_before(folder, undisturbed, tmp_path, monkeypatch, fails):
    parts = tmp_path / "parts"
    expected, whole = undisturbed(Signals, save_every=2)
    flush, calls = os.fsync, []

    def full(descriptor):
        calls.append(1)
        if len(calls) == FLUSHES + fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        return flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="cannot be written: No space left on device"):
        make(folder, parts, Signals(), save_every=2).train(PROMPTS)
    monkeypatch.undo()
    assert not list((parts / "checkpoints").glob(".*"))
    assert load_checkpoint(parts)[1] == []
    assert make(folder, parts, Signals(), save_every=2).train(PROMPTS, resume=parts) == expected
    end_alike(parts, whole)


def test_a_path_that_becomes_unusable_is_named_and_only_the_models_are_saved_again(folder, undisturbed, tmp_path):
    out = tmp_path / "run"
    expected, whole = undisturbed(Signals, save_every=2)
    trainer = make(folder, out, Signals(), save_every=2)
    step = trainer.ppo_step

    def losing(prompts, columns=None):
        (out / "adapter").write_text("in the way")
        return step(prompts, columns)

    trainer.ppo_step = losing
    with pytest.raises(StorageError, match=r"adapter cannot be written: Not a directory"):
        trainer.train(PROMPTS)
    (out / "adapter").unlink()
    repeated = Signals()
    assert make(folder, out, repeated, save_every=2).train(PROMPTS, resume=out) == expected
    assert repeated.calls == 0  # only the models are saved again
    end_alike(out, whole)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or not Path("/proc/mounts").exists(),
    reason="only root can mount a small disk",
)
def test_a_whole_run_on_a_disk_that_is_too_small(folder, undisturbed, tmp_path):
    """Too small for the settings, for the first checkpoint, for a third one next to two; then large enough; then
    read-only."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)], capture_output=True, check=False
    ).returncode:
        pytest.skip("this sandbox lets root mount nothing")
    expected, whole = undisturbed(Signals, save_every=2)
    with pytest.raises(RunPaused):
        make(folder, tmp_path / "one", Signals(3, signal.SIGTERM), save_every=0).train(PROMPTS)
    size = sum(file.stat().st_size for file in (tmp_path / "one" / "checkpoints").rglob("*") if file.is_file())
    try:
        for room, whole_ones in ((4096, 0), (size // 8, 0), (int(2.5 * size), 2)):
            shutil.rmtree(disk / "run", ignore_errors=True)
            subprocess.run(["mount", "-o", f"remount,size={room}", str(disk)], check=True)
            with pytest.raises(StorageError, match="cannot be written: .*No space left on device"):
                make(folder, disk / "run", Signals(), save_every=2).train(PROMPTS)
            assert len(list((disk / "run").glob("checkpoints/step-*"))) == whole_ones
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert make(folder, disk / "run", Signals(), save_every=2).train(PROMPTS, resume=disk / "run") == expected
        end_alike(disk / "run", whole)
        gc.collect()  # tensors of a checkpoint are mapped from its file, and the disk is busy as long as they live
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(UserError, match="is not writable; choose another folder"):
            make(folder, disk / "other", Signals()).train(PROMPTS)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def hold(out, pipe):
    lock = lock_run_folder(out)
    pipe.send(lock.is_locked)
    pipe.recv()


def test_two_processes_cannot_work_in_one_folder(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    ours, theirs = FORKED.Pipe()
    holder = FORKED.Process(target=hold, args=(out, theirs))
    holder.start()
    try:
        assert ours.recv()
        with pytest.raises(UserError, match="run is in use by another process"):
            lock_run_folder(out)
        with pytest.raises(UserError, match="run is in use by another process"):
            make_run_folder(out)
    finally:
        holder.kill()
        holder.join()
    lock_run_folder(out).release()  # a killed process holds no lock


def test_a_resumed_run_is_not_disturbed_by_another(folder, tmp_path):
    trainer = make(folder, tmp_path / "run", Signals(), save_every=2)
    step, tried = trainer.ppo_step, []

    def second(prompts, columns=None):
        if tried:
            return step(prompts, columns)
        tried.append(1)
        with pytest.raises(UserError, match="run is in use by another process"):
            make(folder, tmp_path / "run", Signals(), save_every=2).train(PROMPTS, resume=tmp_path / "run")
        return step(prompts, columns)

    trainer.ppo_step = second
    trainer.train(PROMPTS)
    assert tried and not (tmp_path / "run" / ".lock").exists()
