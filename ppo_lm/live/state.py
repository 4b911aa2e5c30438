"""What is known of a run so far, for those who draw it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from ppo_lm.health import Finding
from ppo_lm.health.checks import steps_of
from ppo_lm.tracking import (
    Column,
    EvaluationDone,
    Recorder,
    RunFinish,
    RunStart,
    SamplesDrawn,
    StepDone,
    StepSkipped,
)
from ppo_lm.tracking.screen import number

FURTHER = (  # shown after the run's own columns and the parts of its reward
    Column("entropy", "entropy"),
    Column("explained_variance", "expl. variance"),
    Column("value_loss", "value loss", ".4f"),
    Column("clip_fraction", "clipped", ".1%"),
)


class Curve(NamedTuple):
    """A metric of all steps so far; None in steps that lack it, or where it is not finite."""

    column: Column
    values: Sequence[float | None]

    @property
    def latest(self) -> str:
        """The last known number; empty if there is none."""
        known = [value for value in self.values if value is not None]
        return number(known[-1], self.column.format).strip() if known else ""


class Sample(NamedTuple):
    """A response of a step."""

    step: int
    prompt: str
    completion: str
    score: float


class RunState(Recorder):
    """Remembers what happens. `changes` counts the events, so that a drawing can tell whether it is out of date."""

    def __init__(self) -> None:
        self.columns: Sequence[Column] = ()
        self.step_number = self.steps = 0
        self.rows: list[Mapping[str, float]] = []
        self.evaluation_done: EvaluationDone | None = None  # the latest
        self.findings: list[str] = []
        self.skipped_steps = 0
        self.sample: Sample | None = None
        self.finished = False
        self.changes = 0
        self.began = self.last_step = time.monotonic()

    def start(self, event: RunStart) -> None:
        self.columns = event.columns
        self.step_number, self.steps = event.done, event.steps
        self.rows = [*steps_of(event.history)]
        self.began = self.last_step = time.monotonic()
        self.changes += 1

    def step(self, event: StepDone) -> None:
        now = time.monotonic()
        self.rows.append({"seconds": now - self.last_step, **event.metrics})
        self._count(event)

    def skipped(self, event: StepSkipped) -> None:
        self.skipped_steps += 1
        self._count(event)

    def _count(self, event: StepDone | StepSkipped) -> None:
        self.step_number, self.last_step = event.step, time.monotonic()
        self.changes += 1

    def samples(self, event: SamplesDrawn) -> None:
        if event.completions:
            prompt = event.prompts[0]
            asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            self.sample = Sample(event.step, str(asked), event.completions[0], event.scores[0])
            self.changes += 1

    def evaluation(self, event: EvaluationDone) -> None:
        self.last_step = time.monotonic()  # measuring is not a step
        self.evaluation_done = event if any(event.means.values()) else self.evaluation_done
        self.changes += 1

    def finding(self, event: Finding) -> None:
        self.findings.append(event.text)
        self.changes += 1

    def finish(self, event: RunFinish) -> None:
        self.finished = True
        self.changes += 1

    def seconds_left(self) -> float | None:
        """Of the steps to come; None before the first one is timed."""
        timed = [row["seconds"] for row in self.rows if "seconds" in row]  # metrics.jsonl has it for PPO only
        if not timed:
            return None
        left = fmean(timed) * (self.steps - self.step_number)
        return max(left - (time.monotonic() - self.last_step), 0.0)

    def curves(self) -> list[Curve]:
        """The run's columns, the parts of a reward that has several, and `FURTHER`: those that any step has."""
        last = self.rows[-1] if self.rows else {}
        parts = [name for name in last if name.startswith("reward/")]
        rewards = [Column(name, name.removeprefix("reward/")) for name in parts] if len(parts) > 1 else []
        shown = [*self.columns[:1], *rewards, *self.columns[1:], *FURTHER]
        return [
            Curve(column, [_finite(row.get(column.name)) for row in self.rows])
            for column in shown
            if any(row.get(column.name) is not None for row in self.rows)
        ]

    def speeds(self) -> dict[str, float]:
        """Tokens per second of the last step, by phase and, as "step", altogether; empty if it was not timed."""
        last = self.rows[-1] if self.rows else {}
        if "tokens_per_second" not in last:
            return {}
        tokens = last["tokens_per_second"] * last["seconds"]
        phases = {name.removeprefix("seconds/"): last[name] for name in last if name.startswith("seconds/")}
        return {
            **{name: tokens / seconds for name, seconds in phases.items() if seconds},
            "step": last["tokens_per_second"],
        }

    def peak_memory(self) -> float | None:
        """In MiB, so far."""
        return self.rows[-1].get("peak_memory_mib") if self.rows else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
