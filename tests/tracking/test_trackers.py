"""Runs in TensorBoard, W&B, Trackio and MLflow, read back from what each of them stored: the same series as
metrics.jsonl, also after a kill."""

import contextlib
import io
import json
import os
import re
import signal
import sqlite3
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from ppo_lm.config import PPOConfig
from ppo_lm.health import Finding
from ppo_lm.tracking import RunStart, StepSkipped, find_recorders
from ppo_lm.tracking.wandb_log import read_rows
from tests.conftest import in_a_process
from tests.ppo_trainer.conftest import PROMPTS, Signals, make

LIBRARIES = ("tensorboard", "wandb", "trackio", "mlflow", "sqlalchemy", "alembic")
missing = [library for library in LIBRARIES if find_spec(library) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")

TRACKERS = ["tensorboard", "wandb", "trackio", "mlflow"]
SETTINGS = dict(recorders=TRACKERS, save_every=2, steps=7, eval_every=2)
TIMES = ("seconds", "floor/", "tokens_per_second", "sampled_tokens_per_second", "peak_memory_mib")


def from_tensorboard(out):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {name: [(point.step, point.value) for point in events.Scalars(name)] for name in events.Tags()["scalars"]}


def from_wandb(out):
    found = defaultdict(list)
    rows = list(read_rows(out.glob("wandb/*run-*/*.wandb")))
    assert [row["_step"] for row in rows] == list(range(len(rows)))  # or else an upload would drop some
    for row in rows:
        for name, value in row.items():
            if not name.startswith("_") and name != "step" and "samples/" not in name:
                found[name].append((row["step"], value))
    return found


def from_trackio(out):
    found = defaultdict(list)
    name, database = trackio_run(out)
    if not database.execute("SELECT name FROM sqlite_master WHERE name = 'metrics'").fetchall():
        return found  # killed before its library, which writes in a thread of its own, had written anything
    rows = database.execute("SELECT step, metrics FROM metrics WHERE run_name = ? ORDER BY id", [name]).fetchall()
    for step, metrics in rows:
        for name, value in json.loads(metrics).items():
            if not isinstance(value, dict):
                found[name].append((step, value))
    return found


def trackio_run(out):
    name = json.loads((out / "trackers.json").read_text())["trackio"]
    return name, sqlite3.connect(os.path.join(os.environ["TRACKIO_DIR"], "ppo_lm.db"))


def from_mlflow(out):
    client, run = mlflow_run(out)
    return {
        name: [(point.step, point.value) for point in client.get_metric_history(run, name)]
        for name in client.get_run(run).data.metrics
    }


def mlflow_run(out):
    from mlflow import MlflowClient

    names = json.loads((out / "trackers.json").read_text())
    ((place, number),) = ((name.split()[1], number) for name, number in names.items() if name.startswith("mlflow "))
    return MlflowClient(tracking_uri=place), number


READERS = dict(tensorboard=from_tensorboard, wandb=from_wandb, trackio=from_trackio, mlflow=from_mlflow)


def recorded(out):
    expected = defaultdict(list)
    for line in (out / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        prefix = f"{row.pop('evaluation')}/" if "evaluation" in row else ""
        step = row.pop("step")
        for name, value in row.items():
            expected[prefix + name].append((step, value))
    return expected


def approximately(points):
    return [(step, pytest.approx(value, rel=1e-6)) for step, value in points]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Environment variables, so that the developer's own projects are left alone."""
    place = tmp_path_factory.mktemp("places")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_")):
                patch.delenv(name)
        patch.setenv("TRACKIO_DIR", str(place))
        patch.setenv("NETRC", str(place / "netrc"))
        yield dict(os.environ)


def train_elsewhere(environment, folder, out, reward):
    os.environ.update(environment)
    os.environ.pop("WANDB_SERVICE", None)  # a killed process takes its own W&B service with it, not that of the tests
    make(folder, out, reward, **SETTINGS).train(PROMPTS)


class Recorded(NamedTuple):
    out: Path
    killed: dict  # what each tracker had after the kill
    rows: dict  # of metrics.jsonl at that time
    printed: str  # by the run that was resumed


@pytest.fixture(scope="module")
def run(folder, places, tmp_path_factory):
    """A run of 7 steps that is killed in step 6 and resumed from step 4."""
    out = tmp_path_factory.mktemp("killed") / "run"
    killer = Signals(11, signal.SIGKILL)  # calls of the reward: e e 1 2 e e 3 4 e e 5 6
    assert in_a_process(train_elsewhere, places, folder, out, killer) == -signal.SIGKILL
    killed, rows = {tracker: READERS[tracker](out) for tracker in TRACKERS}, recorded(out)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        make(folder, out, Signals(), **SETTINGS).train(PROMPTS, resume=out)
    return Recorded(out, killed, rows, printed.getvalue())


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_killed_process_leaves_the_first_rows(run, tracker):
    assert {"score", "kl", "sampled/score", "near_greedy/score"} < run.rows.keys()
    for name, points in run.killed[tracker].items():
        assert points == approximately(run.rows[name][: len(points)]), name


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_run_that_was_killed_and_resumed_has_the_series_of_metrics_jsonl(run, tracker):
    found, expected = READERS[tracker](run.out), recorded(run.out)
    assert [step for step, _ in expected["score"]] == [1, 2, 3, 4, 5, 6, 7]
    assert found.keys() == expected.keys()
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        if not name.startswith(TIMES):  # of a step that was done twice, the first or the second
            assert found[name] == approximately(points), name


def test_the_settings_and_the_samples(run):
    first = json.loads((run.out / "samples.jsonl").read_text().splitlines()[0])
    client, number = mlflow_run(run.out)
    assert client.get_run(number).data.params["batch_size"] == "4"
    files = [file.path for file in client.list_artifacts(number, "samples")]
    assert files == [f"samples/step-{step:06d}.json" for step in range(1, 8)]
    table = json.loads(Path(client.download_artifacts(number, files[0])).read_text())
    assert table["columns"][:3] == ["step", "prompt", "completion"]
    assert table["data"][0][:3] == [1, first["prompt"], first["completion"]]

    name, database = trackio_run(run.out)
    (config,) = database.execute("SELECT config FROM configs WHERE run_name = ?", [name]).fetchone()
    assert json.loads(config)["batch_size"] == 4
    stored = database.execute("SELECT metrics FROM metrics WHERE run_name = ? ORDER BY step", [name])
    tables = [row["samples"]["_value"] for row in (json.loads(metrics) for (metrics,) in stored) if "samples" in row]
    assert len(tables) == 7 and tables[0][0]["completion"] == first["completion"]

    tables = [row["samples/path"] for row in read_rows(run.out.glob("wandb/*run-*/*.wandb")) if "samples/path" in row]
    assert tables  # of those before the checkpoint, the ones that its library had not written yet are lost
    (file,) = run.out.glob(f"wandb/*run-*/files/{tables[-1]}")
    last = json.loads((run.out / "samples.jsonl").read_text().splitlines()[-4])
    assert json.loads(file.read_text())["data"][0][:3] == [7, last["prompt"], last["completion"]]


def test_the_run_says_where_each_is_and_the_libraries_say_nothing(run):
    lines = [line for line in run.printed.splitlines() if re.search("wandb|W&B|rackio|lflow", line, re.IGNORECASE)]
    assert [line for line in lines if not re.match("  [a-z]", line)] == [
        "W&B: recorded offline; to upload it:",
        f"    wandb sync {run.out}/wandb/*run-*",
        "Trackio: run run; to look at it:",
        "    trackio show --project ppo_lm",
        "MLflow: run run; to look at it:",
        f"    mlflow ui --backend-store-uri sqlite:///{run.out}/mlflow/mlflow.db",
    ]
    assert "INFO" not in run.printed


def test_findings_and_skipped_steps_are_alerts(run, tmp_path, monkeypatch):
    place = f"sqlite:///{run.out}/mlflow/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    recorders = [kind() for kind in find_recorders(TRACKERS)]
    start = RunStart("PPO on m", PPOConfig(), tmp_path, steps=4)
    for recorder in recorders:
        recorder.start(start)
        recorder.skipped(StepSkipped(3, 4, "the reward is NaN", None))
        recorder.finding(Finding("kl", "the KL runs away"))
        recorder.close()
    client, number = mlflow_run(tmp_path)
    assert client.tracking_uri == place and not (tmp_path / "mlflow").exists()
    tags = client.get_run(number).data.tags
    assert (tags["skipped at step 3"], tags["health at step 3"]) == ("the reward is NaN", "the KL runs away")
    name, database = trackio_run(tmp_path)
    alerts = database.execute("SELECT title, text, step FROM alerts WHERE run_name = ? ORDER BY id", [name]).fetchall()
    assert alerts == [("skipped", "the reward is NaN", 3), ("health", "the KL runs away", 3)]


def test_a_second_run_of_the_same_name_is_another_run_in_trackio(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tracker,) = (kind() for kind in find_recorders(["trackio"]))
    tracker.start(RunStart("PPO on m", PPOConfig(), tmp_path / "run", steps=4))
    tracker.close()
    assert json.loads((tmp_path / "run" / "trackers.json").read_text()) == {"trackio": "run-2"}
