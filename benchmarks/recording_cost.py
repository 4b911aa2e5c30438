"""What each tracker takes of a step: the rows and samples of a finished run are sent to it at the pace of the run.

    uv run benchmarks/recording_cost.py runs/embedded

What a run waits for at its start, at its end and in its steps; and what this process computes meanwhile, in all of its
threads, which takes time from a run on a CPU. W&B's own process is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ppo_lm.config import PPOConfig
from ppo_lm.tracking import EvaluationDone, Recorder, RunStart, SamplesDrawn, StepDone, find_recorders

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def events(run: Path) -> list[tuple[str, object]]:
    """The calls that a run made, by the names of the methods of `Recorder`."""
    drawn = {step: list(rows) for step, rows in groupby(read(run / "samples.jsonl"), lambda row: row["step"])}
    calls: list[tuple[str, object]] = []
    for row in read(run / "metrics.jsonl"):
        step = row.pop("step")
        if "evaluation" in row:
            calls.append(("evaluation", EvaluationDone(step, 1, {row.pop("evaluation"): row})))
        elif "dropped" not in row:
            calls.append(("step", StepDone(step, 0, row)))
            if step in drawn:
                prompts, texts, scores = zip(*((r["prompt"], r["completion"], r["score"]) for r in drawn[step]))
                calls.append(("samples", SamplesDrawn(step, prompts, texts, scores, {})))
    return calls


class Cost(NamedTuple):
    """Seconds."""

    start: float
    end: float
    waited: float  # for the steps
    computed: float


def cost(tracker: Recorder, calls: list[tuple[str, object]], folder: Path) -> Cost:
    """What it takes to record the calls."""
    began = time.perf_counter()
    tracker.start(RunStart("", PPOConfig(), folder, len(calls)))
    ready, computed, waited = time.perf_counter(), time.process_time(), 0.0
    for method, event in calls:
        if isinstance(event, StepDone):
            time.sleep(event.metrics["seconds"])
        asked = time.perf_counter()
        getattr(tracker, method)(event)
        waited += time.perf_counter() - asked
    done = time.perf_counter()
    tracker.close()
    return Cost(ready - began, time.perf_counter() - done, waited, time.process_time() - computed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished PPO run")
    calls = events(parser.parse_args().run)
    steps = [event.metrics for _, event in calls if isinstance(event, StepDone)]
    step = median(metrics["seconds"] for metrics in steps)
    print(f"{len(steps)} steps of {step * 1000:.0f} ms, {len(steps[-1])} metrics each")
    with tempfile.TemporaryDirectory() as place:
        os.environ["TRACKIO_DIR"] = place
        for name, kind in zip(TRACKERS, find_recorders(TRACKERS)):
            folder = Path(place, name)
            folder.mkdir()
            start, end, waited, computed = cost(kind(), calls, folder)
            shares = (f"{seconds / len(steps) / step:.2%}" for seconds in (waited, computed))
            once = f"start {start:4.1f} s, end {end:4.1f} s"
            print("{:12} {}; of a step, {:>6} waiting, {:>6} computing".format(name, once, *shares))


if __name__ == "__main__":
    main()
