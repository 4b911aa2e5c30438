"""What each tracker takes of a step: the rows and samples of a finished run are sent to it as fast as it takes them.

    uv run benchmarks/recording_cost.py runs/embedded

The time is that of all threads, until everything is stored, so it is more than a run waits for.
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


def seconds(tracker: Recorder, calls: list[tuple[str, object]], folder: Path) -> tuple[float, float]:
    """To start, and to record."""
    started = time.perf_counter()
    tracker.start(RunStart("", PPOConfig(), folder, len(calls)))
    ready = time.perf_counter()
    for method, event in calls:
        getattr(tracker, method)(event)
    tracker.close()
    return ready - started, time.perf_counter() - ready


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
            start, record = seconds(kind(), calls, folder)
            each = record / len(steps)
            print(f"{name:12} start {start:4.1f} s   {each * 1000:5.1f} ms a step, {each / step:.2%} of it")


if __name__ == "__main__":
    main()
