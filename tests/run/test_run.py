"""A run of any stage: its steps, its parts, its recorders."""

import errno
import json
import os
import shlex
import time

import pytest
import torch

from ppo_lm.config import PPOConfig, SFTConfig
from ppo_lm.data import DataReport
from ppo_lm.errors import (
    CheckpointError,
    ConfigError,
    ModelError,
    NumericalFault,
    RecorderError,
    RewardError,
    RunPaused,
    RunStopped,
    StorageError,
)
from ppo_lm.run import RandomStream, Run, Weights
from ppo_lm.run.checkpoint import Checkpoint, list_checkpoints, save_checkpoint
from ppo_lm.tracking import MetricsFile, Recorder

pytestmark = pytest.mark.fast


class Sum:
    """A part that a step changes: a running sum."""

    def __init__(self):
        self.value = 0.0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


class Stage:
    """A stage whose steps draw a random number, add it to a weight and to a sum, and record it; step `fails` raises
    `error` half-way."""

    def __init__(self, out, steps=6, fails=0, error=None, recorders=(), **settings):
        self.config = SFTConfig(model_name="m", demonstrations="d", output_dir=str(out), **settings)
        self.steps, self.fails, self.error, self.recorders = steps, fails, error, recorders
        self.weight, self.sum, self.random = torch.zeros(2), Sum(), torch.Generator().manual_seed(0)

    def run(self, resume=None, data="data", overwrite=False, save=None, save_every=2):
        with Run(
            self.config,
            steps=self.steps,
            command="{} again {}",
            identity=lambda: {"the training data": data},
            resume=resume,
            overwrite=overwrite,
            save_every=save_every,
            recorders=[MetricsFile(), *self.recorders],
        ) as run:
            run.register("weight", Weights([self.weight]))
            run.register("sum", self.sum, undo=True)
            run.register("random", RandomStream(self.random), undo=True)
            run.start("a stage", reports=[DataReport("rows", 3, 3, 0)])
            for step in run.steps():
                drawn = torch.rand(1, generator=self.random).item()
                self.sum.value += drawn
                if step == self.fails:
                    raise self.error
                self.weight += drawn
                run.record_step(step, {"drawn": drawn, "sum": self.sum.value})
            run.finish(save)
        return self


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def alike(one, other, folders):
    return (
        torch.equal(one.weight, other.weight)
        and one.sum.value == other.sum.value
        and rows(folders[0]) == rows(folders[1])
    )


@pytest.mark.parametrize("error", [RewardError("out"), NumericalFault("nan")], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("fails", [1, 3, 4, 6])
def test_a_step_that_fails_half_way_is_undone_and_the_run_continues_bit_for_bit(tmp_path, fails, error):
    whole = Stage(tmp_path / "whole").run()
    with pytest.raises(
        RunPaused, match=f"saved as it was after step {fails - 1}; continue with:\n    ppo-lm again {tmp_path}/parts"
    ):
        Stage(tmp_path / "parts", fails=fails, error=error).run()
    parts = Stage(tmp_path / "parts").run(resume=tmp_path / "parts")
    assert alike(whole, parts, (tmp_path / "whole", tmp_path / "parts"))
    assert not (tmp_path / "parts" / ".lock").exists()


def test_a_run_that_was_killed_continues_from_the_checkpoint_before(tmp_path):
    whole = Stage(tmp_path / "whole").run()
    with pytest.raises(KeyboardInterrupt):  # not one of the errors that save the run
        Stage(tmp_path / "parts", fails=4, error=KeyboardInterrupt()).run()
    assert [path.name for path in sorted((tmp_path / "parts" / "checkpoints").iterdir())] == [
        "step-000000",
        "step-000002",
    ]
    parts = Stage(tmp_path / "parts").run(resume=tmp_path / "parts")
    assert alike(whole, parts, (tmp_path / "whole", tmp_path / "parts"))


@pytest.mark.parametrize("save_every", [0, 2, 4])
def test_results_that_cannot_be_written_are_written_by_the_resumed_run_which_repeats_no_step(tmp_path, save_every):
    whole, out = Stage(tmp_path / "whole").run(), tmp_path / "parts"
    notices = Notices()

    def fails(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    def saves(folder):
        (folder / "merged").write_text("all of it")
        return ["rounded"]

    for _ in range(2):  # the second time the checkpoint of the last step is already there
        with pytest.raises(
            StorageError, match="No space left on device; free some space or fix the path\nThe last"
        ) as full:
            Stage(out).run(save=fails, save_every=save_every, resume=out if out.exists() else None)
        saved = out / "checkpoints" / "step-000006"
        assert f"checkpoint is {saved}; continue from it with:\n    ppo-lm again {out}" in str(full.value)
    parts = Stage(out, fails=6, error=AssertionError("a step was repeated"), recorders=[notices])
    parts.run(save=saves, save_every=save_every, resume=out)
    assert alike(whole, parts, (tmp_path / "whole", out))
    assert (out / "merged").read_text() == "all of it" and "rounded" in notices.heard
    assert [folder.name for folder in list_checkpoints(out)] == ["step-000006"]


def test_a_run_whose_folder_fills_before_it_starts_leaves_it_free(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="config.yaml cannot be written: No space left on device; free some space"):
        Stage(tmp_path / "run").run()
    assert list((tmp_path / "run").iterdir()) == []
    monkeypatch.undo()
    Stage(tmp_path / "run").run()


def test_without_a_checkpoint_the_way_on_is_to_start_again(tmp_path):
    class Full(Recorder):
        def start(self, event):
            raise StorageError("metrics.jsonl cannot be written: No space left on device")

    with pytest.raises(StorageError, match="No checkpoint of this run was saved; start again with --overwrite"):
        Stage(tmp_path / "run", recorders=[Full()]).run()
    Stage(tmp_path / "run").run(overwrite=True)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    with pytest.raises(RunPaused):
        Stage(tmp_path / "run", fails=3, error=RewardError("out")).run()
    with pytest.raises(CheckpointError, match="the run to resume has changed: batch_size was 32 and is 2"):
        Stage(tmp_path / "run", batch_size=2).run(resume=tmp_path / "run")
    with pytest.raises(CheckpointError, match="the training data was 'data' and is 'other data'"):
        Stage(tmp_path / "run").run(resume=tmp_path / "run", data="other data")
    other = Stage(tmp_path / "run")
    other.weight = torch.zeros(3)
    with pytest.raises(
        CheckpointError, match=r"the checkpoint does not fit \(weight: ValueError: weight 0 has shape \(3,\)"
    ):
        other.run(resume=tmp_path / "run")
    assert not (tmp_path / "run" / ".lock").exists()  # each attempt released the folder
    Stage(tmp_path / "run").run(resume=tmp_path / "run")


def test_nan_is_never_saved(tmp_path):
    stage = Stage(tmp_path / "run", fails=3, error=RewardError("out"))
    stage.weight[1] = torch.nan
    with pytest.raises(
        RunStopped, match="contains NaN or inf, so it was not saved\nNo checkpoint of this run was saved"
    ):
        stage.run()
    assert not list(tmp_path.rglob("step-*"))


class Callback(Recorder):
    """Asks to stop after a step, or raises in one."""

    def __init__(self, stop=0, fail=0):
        self.stop, self.fail, self.heard = stop, fail, []

    def start(self, event):
        self.heard.append(f"start {event.done}")

    def step(self, event):
        self.heard.append(event.step)
        if event.step == self.fail:
            raise ZeroDivisionError("division by zero")
        return "good enough" if event.step == self.stop else None

    def checkpoint(self, event):
        self.heard.append(f"saved {event.step}")

    def finish(self, event):
        self.heard.append(f"finish {event.done}: {event.reason}")

    def close(self):
        self.heard.append("close")


def test_a_recorder_hears_everything_in_order_and_may_stop_the_run(tmp_path):
    callback = Callback(stop=3)
    Stage(tmp_path / "run", recorders=[callback]).run()
    assert callback.heard == [
        "start 0", "saved 0", 1, 2, "saved 2", 3, "saved 3", "finish 3: good enough", "close",
    ]  # fmt: skip
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3]


def test_a_recorder_that_raises_pauses_the_run(tmp_path):
    whole = Stage(tmp_path / "whole").run()
    callback = Callback(fail=4)
    with pytest.raises(RunPaused, match=r"recorder Callback raised ZeroDivisionError in step\(\): division by zero"):
        Stage(tmp_path / "parts", recorders=[callback]).run()
    assert callback.heard[-1] == "close"
    parts = Stage(tmp_path / "parts").run(resume=tmp_path / "parts")
    assert alike(whole, parts, (tmp_path / "whole", tmp_path / "parts"))


def test_a_run_that_never_started_leaves_its_folder_free(tmp_path):
    def load():
        assert (tmp_path / "run" / "config.yaml").exists()
        raise ModelError("the model does not load")

    run = Run(SFTConfig(output_dir=str(tmp_path / "run")), steps=1, command="")
    with pytest.raises(ModelError), run:
        load()
    assert list((tmp_path / "run").iterdir()) == []
    Stage(tmp_path / "run").run()


def test_a_run_replaces_another_only_if_told_to(tmp_path):
    first = Stage(tmp_path / "run").run()
    with pytest.raises(ConfigError, match="already holds a run"):
        Stage(tmp_path / "run").run()
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    again = Stage(tmp_path / "run").run(overwrite=True)
    assert alike(first, again, (tmp_path / "run", tmp_path / "run"))


def test_a_folder_is_required_only_of_a_run_that_has_one(tmp_path):
    with Run(SFTConfig(output_dir=str(tmp_path / "run")), steps=1, command="") as run:
        assert run.require_folder() == run.folder == tmp_path / "run"
    with (
        Run(PPOConfig(output_dir=None), steps=1, command="") as run,
        pytest.raises(ConfigError, match="output_dir is not set; set it to a folder"),
    ):
        run.require_folder()


def test_hashing_that_takes_long_is_said(monkeypatch):
    def slow():
        time.sleep(0.2)
        return {}

    def notices():
        return Run(SFTConfig(model_name="m"), steps=1, command="", identity=slow).notices

    assert notices() == []
    monkeypatch.setattr("ppo_lm.run.run.LONG_HASHING", 0.1)
    assert notices() == ["hashing the models and the data took 0 s"]


def test_a_step_has_to_be_recorded(tmp_path):
    stage = Stage(tmp_path / "run")
    with (
        pytest.raises(RuntimeError, match="step 1 was not recorded"),
        Run(stage.config, steps=2, command="{} again {}") as run,
    ):
        for _ in run.steps():
            pass


class Counts(Sum):
    """Counts how often it is copied."""

    def __init__(self):
        super().__init__()
        self.copied = 0

    def state_dict(self):
        self.copied += 1
        return super().state_dict()


def test_only_what_a_failing_step_leaves_changed_is_copied_in_every_step(tmp_path):
    config = SFTConfig(model_name="m", demonstrations="d", output_dir=str(tmp_path / "run"))
    kept, undone = Counts(), Counts()
    with Run(config, steps=6, command="{} again {}", save_every=3) as run:
        run.register("kept", kept)
        run.register("undone", undone, undo=True)
        run.start("a stage")
        for step in run.steps():
            run.record_step(step, {})
    assert kept.copied == 2  # the checkpoints before steps 1 and 4
    assert undone.copied > 6


def test_a_part_is_registered_before_the_run_starts(tmp_path):
    config = SFTConfig(model_name="m", demonstrations="d", output_dir=str(tmp_path / "run"))
    with Run(config, steps=1, command="{} again {}") as run:
        run.start("a stage")
        with pytest.raises(RuntimeError, match="part 'late' was registered after the start of the run"):
            run.register("late", Sum())


def test_a_run_that_was_asked_to_stop_stays_stopped_when_it_is_resumed(tmp_path):
    callback = Callback(stop=3)
    config = SFTConfig(model_name="m", demonstrations="d", output_dir=str(tmp_path / "run"))

    def run_until_the_result_is_measured(resume=None, error=None):
        with Run(config, steps=6, command="{} again {}", resume=resume, recorders=[callback]) as run:
            run.start("a stage")
            for step in run.steps():
                run.record_step(step, {})
            if error:
                raise error
            run.finish()

    with pytest.raises(RunPaused, match="saved as it was after step 3"):
        run_until_the_result_is_measured(error=RewardError("the service is away"))
    run_until_the_result_is_measured(resume=tmp_path / "run")
    assert callback.heard[-3:] == ["start 3", "finish 3: good enough", "close"]


def test_recorders_that_cannot_be_closed_do_not_keep_the_others_or_the_folder(tmp_path):
    class Fails(Recorder):
        def close(self):
            raise OSError("the connection is gone")

    callback = Callback()
    with pytest.raises(RecorderError, match=r"recorder Fails raised OSError in close\(\): the connection is gone"):
        Stage(tmp_path / "run", recorders=[Fails(), callback]).run()
    assert callback.heard[-1] == "close" and not (tmp_path / "run" / ".lock").exists()
    error = RewardError("out")  # which counts for more
    with pytest.raises(RunPaused, match="out"):
        Stage(tmp_path / "other", fails=3, error=error, recorders=[Fails()]).run()


def test_a_recorder_with_a_state_continues_with_it(tmp_path):
    class Best(Recorder, Sum):
        def step(self, event):
            self.value = max(self.value, event.metrics["drawn"])

    whole, first, second = Best(), Best(), Best()
    for best in (whole, first, second):
        Sum.__init__(best)
    Stage(tmp_path / "whole", recorders=[whole]).run()
    with pytest.raises(RunPaused):
        Stage(tmp_path / "parts", recorders=[first], fails=5, error=RewardError("out")).run()
    Stage(tmp_path / "parts", recorders=[second]).run(resume=tmp_path / "parts")
    assert second.value == whole.value > 0


def test_a_checkpoint_of_an_older_version_is_refused_in_a_sentence(tmp_path):
    save_checkpoint(tmp_path / "run", 2, Checkpoint({"policy.0": torch.zeros(2)}, {"step": 2, "config": {}}))
    with pytest.raises(CheckpointError, match="was written by another version of ppo_lm"):
        Stage(tmp_path / "run").run(resume=tmp_path / "run")


def test_the_command_that_resumes_a_run_can_be_pasted_whatever_its_folder_is_called(tmp_path):
    folder, callback = tmp_path / "my run's folder", Notices()
    Stage(folder, steps=1, max_steps=1, recorders=[callback]).run()
    command = callback.heard[-1].split("\n")[1]
    assert shlex.split(command) == ["ppo-lm", "again", str(folder)]


def test_a_finished_run_is_extended_as_if_it_had_been_planned_so(tmp_path):
    whole = Stage(tmp_path / "whole", steps=6, max_steps=6).run()
    Stage(tmp_path / "parts", steps=3, max_steps=3).run()
    assert [path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()] == ["step-000003"]
    callback = Notices()
    parts = Stage(tmp_path / "parts", steps=6, max_steps=6, recorders=[callback]).run(resume=tmp_path / "parts")
    assert alike(whole, parts, (tmp_path / "whole", tmp_path / "parts"))
    assert callback.heard[0] == (
        "max_steps was 3 and is 6: from step 4 on, the learning rate is that of a run of 6 steps; if it had decayed, "
        "it rises again"
    )
    assert callback.heard[-1].startswith(
        "to extend the run, raise epochs (--epochs N) or max_steps (--max_steps N) and resume it:\n"
        f"    ppo-lm again {tmp_path / 'parts'}\n(checkpoints/, "
    )
    assert "max_steps: 6" in (tmp_path / "parts" / "config.yaml").read_text()


def test_a_paused_run_is_extended_or_cut_short_but_not_to_what_it_has_done(tmp_path):
    whole = Stage(tmp_path / "whole", steps=8).run()
    with pytest.raises(RunPaused):
        Stage(tmp_path / "parts", fails=4, error=RewardError("out")).run()
    with pytest.raises(
        CheckpointError, match="max_steps was 0 and is 3, which makes 3 steps, but the run is already at step 3"
    ):
        Stage(tmp_path / "parts", steps=3, max_steps=3).run(resume=tmp_path / "parts")
    parts = Stage(tmp_path / "parts", steps=8, max_steps=8).run(resume=tmp_path / "parts")
    assert alike(whole, parts, (tmp_path / "whole", tmp_path / "parts"))


def test_a_finished_run_that_is_not_extended_says_that_it_is_finished(tmp_path):
    Stage(tmp_path / "run").run()
    with pytest.raises(
        CheckpointError,
        match="is finished: it ended after step 6; to extend it, raise epochs .* or max_steps .* and resume it",
    ):
        Stage(tmp_path / "run").run(resume=tmp_path / "run")


def test_a_run_that_a_recorder_stopped_goes_on_when_it_is_extended(tmp_path):
    Stage(tmp_path / "run", steps=6, recorders=[Callback(stop=3)]).run()
    with pytest.raises(CheckpointError, match=r"it ended after step 3 \(good enough\)"):
        Stage(tmp_path / "run", steps=6).run(resume=tmp_path / "run")
    Stage(tmp_path / "run", steps=8, max_steps=8).run(resume=tmp_path / "run")
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 9))


def test_an_extended_run_that_is_killed_before_its_first_checkpoint_is_still_the_longer_one(tmp_path):
    Stage(tmp_path / "run", steps=4, max_steps=4).run()
    longer = dict(steps=6, max_steps=6)
    with pytest.raises(KeyboardInterrupt):
        Stage(tmp_path / "run", fails=5, error=KeyboardInterrupt(), **longer).run(resume=tmp_path / "run")
    assert "max_steps: 6" in (tmp_path / "run" / "config.yaml").read_text()
    Stage(tmp_path / "run", **longer).run(resume=tmp_path / "run")
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 7))


def test_what_is_measured_at_the_end_is_measured_again_after_an_extension(tmp_path):
    measured = []

    def run(steps, resume=None):
        config = SFTConfig(model_name="m", demonstrations="d", output_dir=str(tmp_path / "run"), max_steps=steps)
        with Run(config, steps=steps, command="", resume=resume, recorders=[MetricsFile()]) as run:

            def measure():
                measured.append(run.step)
                return {"loss": float(run.step)}

            run.start("a stage")
            before = run.measure("before", 1, measure, after=0)
            for step in run.steps():
                run.record_step(step, {})
            after = run.measure("after", 1, measure, after=run.step)
            run.finish()
        return before["loss"], after["loss"]

    assert run(2) == (0.0, 2.0)
    assert run(5, resume=tmp_path / "run") == (0.0, 5.0) and measured == [0, 2, 5]


class Notices(Recorder):
    """Keeps the notices that a run gives."""

    def __init__(self):
        self.heard = []

    def start(self, event):
        self.heard += event.notices

    def notice(self, text):
        self.heard.append(text)
