"""A run in MLflow."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ppo_lm.config.files import dump_settings
from ppo_lm.tracking.events import CheckpointSaved, RunStart
from ppo_lm.tracking.recorder import RECORDERS
from ppo_lm.tracking.tracker import PROJECT, Tracker, last_steps, remembered

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.utils.async_logging.run_operations import RunOperations

FOLDER = "mlflow"
SECONDS = 3.0  # between two batches of metrics: each costs a transaction
MOST = 500  # metrics of a batch; MLflow takes 1,000
TABLE = re.compile(r"(.+)/step-(\d+)\.json")  # its path among the artifacts


@RECORDERS.register("mlflow")
class MLflow(Tracker):
    """An MLflow run, with tables as artifacts and alerts as tags: at `MLFLOW_TRACKING_URI`, or else in `mlflow/` of the
    run's folder; in the experiment `MLFLOW_EXPERIMENT_NAME`, or else ppo_lm."""

    needs = ("mlflow", "sqlalchemy", "alembic")
    client: MlflowClient
    run: str

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Metric] = []
        self.sending: list[RunOperations | None] = []
        self.sent = 0.0  # when the last ones were, in seconds

    def open(self, event: RunStart, folder: Path) -> Mapping[str, int]:
        """Create the run, or find it."""
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or _local(folder)
        self.client = MlflowClient(tracking_uri=uri)
        self.run = remembered(folder, f"mlflow {uri}", lambda: self._create(event, folder))
        self.client.update_run(self.run, status="RUNNING")
        self.client.log_text(self.run, dump_settings(event.config), "config.yaml")
        self.notes = [
            f"MLflow: run {folder.name}; to look at it:\n    mlflow ui --backend-store-uri {shlex.quote(uri)}"
        ]
        known = self.client.get_run(self.run).data.metrics
        return {
            **{name: self.client.get_metric_history(self.run, name)[-1].step for name in known},
            **last_steps(self._tables()),
        }

    def _tables(self, folder: str | None = None) -> Iterator[tuple[list[str], int]]:
        """The name and the step of each table that the run has, in whatever order."""
        for artifact in self.client.list_artifacts(self.run, folder):
            if artifact.is_dir:
                yield from self._tables(artifact.path)
            elif table := TABLE.fullmatch(artifact.path):
                yield [table[1]], int(table[2])

    def _create(self, event: RunStart, folder: Path) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        experiment = self.client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._create_experiment(name, folder)
        run = self.client.create_run(number, run_name=folder.name).info.run_id
        params = [Param(key, str(value)) for key, value in dataclasses.asdict(event.config).items()]
        self.client.log_batch(run, params=params)
        return run

    def _create_experiment(self, name: str, folder: Path) -> str:
        is_local = not os.environ.get("MLFLOW_TRACKING_URI")
        return self.client.create_experiment(name, (folder / FOLDER).absolute().as_uri() if is_local else None)

    def scalars(self, numbers: Mapping[str, float], step: int) -> None:
        """In the background, those of some seconds at once; an error of the last ones is raised here."""
        from mlflow.entities import Metric

        now = time.time()
        self.waiting += [Metric(name, float(value), int(now * 1000), step) for name, value in numbers.items()]
        if now - self.sent >= SECONDS or len(self.waiting) >= MOST:
            self._send_waiting()

    def checkpoint(self, event: CheckpointSaved) -> None:
        """Send what is left."""
        if self.is_open:
            self._send_waiting()

    def table(self, name: str, rows: Sequence[Mapping[str, object]], step: int) -> None:
        """A file per step, in the format of MLflow's tables."""
        content = {"columns": list(rows[0]) if rows else [], "data": [list(row.values()) for row in rows]}
        self.client.log_dict(self.run, content, f"{name}/step-{step:06d}.json")  # see TABLE

    def alert(self, kind: str, text: str, step: int) -> None:
        """A tag; MLflow has no alerts."""
        self.client.set_tag(self.run, f"{kind} at step {step}", text)

    def close(self) -> None:
        """Send what is left."""
        if self.is_open:
            try:
                self._send_waiting()
                self._wait()
            finally:
                self.client.set_terminated(self.run)

    def _send_waiting(self) -> None:
        self._wait()
        batches = [self.waiting[start : start + MOST] for start in range(0, len(self.waiting), MOST)]
        self.sending = [self.client.log_batch(self.run, metrics=batch, synchronous=False) for batch in batches]
        self.waiting, self.sent = [], time.time()

    def _wait(self) -> None:
        for batch in self.sending:
            if batch is not None:
                batch.wait()


def _local(folder: Path) -> str:
    (folder / FOLDER).mkdir(exist_ok=True)
    return f"sqlite:///{(folder / FOLDER / 'mlflow.db').absolute()}"
