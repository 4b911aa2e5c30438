"""Runs in TensorBoard, W&B, Trackio and MLflow, read back from what each of them stored: the same series as
metrics.jsonl, also after a kill."""

import json
import os
import signal
import sqlite3
from collections import defaultdict
from importlib.util import find_spec

import pytest

from ppo_lm.health import Finding
from ppo_lm.tracking import RunStart, StepSkipped, Tracker, find_recorders
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
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    for row in rows:
        for name, value in row.items():
            if not name.startswith("_") and name != "step" and "samples/" not in name:
                found[name].append((row["step"], value))
    return found


def from_trackio(out):
    found = defaultdict(list)
    name = json.loads((out / "trackers.json").read_text())["trackio"]
    with sqlite3.connect(os.path.join(os.environ["TRACKIO_DIR"], "ppo_lm.db")) as database:
        rows = database.execute("SELECT step, metrics FROM metrics WHERE run_name = ? ORDER BY id", [name]).fetchall()
    for step, metrics in rows:
        for name, value in json.loads(metrics).items():
            if not isinstance(value, dict):
                found[name].append((step, value))
    return found


def from_mlflow(out):
    client, run = mlflow_run(out)
    return {
        name: [(point.step, point.value) for point in client.get_metric_history(run, name)]
        for name in client.get_run(run).data.metrics
    }


def mlflow_run(out):
    from mlflow import MlflowClient

    uri = f"sqlite:///{out}/mlflow/mlflow.db"
    return MlflowClient(tracking_uri=uri), json.loads((out / "trackers.json").read_text())[f"mlflow {uri}"]


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
        patch.setenv("TRACKIO_DIR", str(place))
        patch.setenv("NETRC", str(place / "netrc"))
        for name in list(os.environ):
            if name.startswith(("WANDB_", "MLFLOW_")) or name == "TRACKIO_PROJECT":
                patch.delenv(name)
        yield dict(os.environ)


@pytest.fixture(scope="module")
def undisturbed_run(folder, places, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    make(folder, out, Signals(), **SETTINGS).train(PROMPTS)
    return out


def train_elsewhere(environment, folder, out, reward, resume=None):
    os.environ.update(environment)
    os.environ.pop("WANDB_SERVICE", None)  # a killed process takes its own W&B service with it, not that of the tests
    make(folder, out, reward, **SETTINGS).train(PROMPTS, resume=resume)


@pytest.fixture(scope="module")
def killed_run(folder, places, tmp_path_factory):
    """Killed in step 6, resumed from step 4, killed in step 6 again, and resumed to the end."""
    out = tmp_path_factory.mktemp("killed") / "run"
    for at, resume in ((11, None), (2, out)):  # the calls of the reward are e e 1 2 e e 3 4 e e 5 6
        killer = Signals(at, signal.SIGKILL)
        assert in_a_process(train_elsewhere, places, folder, out, killer, resume=resume) == -signal.SIGKILL
    make(folder, out, Signals(), **SETTINGS).train(PROMPTS, resume=out)
    return out


@pytest.mark.parametrize("tracker", TRACKERS)
def test_the_same_series_as_metrics_jsonl(undisturbed_run, tracker):
    found, expected = READERS[tracker](undisturbed_run), recorded(undisturbed_run)
    assert {"score", "kl", "sampled/score", "near_greedy/score"} < expected.keys()
    assert found == {name: approximately(points) for name, points in expected.items()}


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_run_that_was_killed_twice_has_each_point_once(killed_run, tracker):
    found, expected = READERS[tracker](killed_run), recorded(killed_run)
    assert found.keys() == expected.keys()
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        if not name.startswith(TIMES):
            assert found[name] == approximately(points), name
