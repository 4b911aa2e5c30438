"""A recorder that writes score and KL of every step to a CSV file, and ends the run once the score is good enough.

    ppo-lm train --model_name embedded --prompts embedded --recorders examples/own_recorder.py:Table

From Python, where it can be given arguments: `trainer.train(recorders=[Table("scores.csv", goal=0.9)])`.
"""

from __future__ import annotations

import csv

from ppo_lm.tracking import Recorder, RunStart, StepDone


class Table(Recorder):
    """The other events that a recorder may receive are methods of `Recorder`; those not overridden do nothing."""

    def __init__(self, path: str = "scores.csv", goal: float = float("inf")):
        self.path, self.goal = path, goal

    def start(self, event: RunStart) -> None:
        mode = "a" if event.done else "w"  # a run that is resumed has written some rows
        self.file = open(self.path, mode, newline="", encoding="utf-8")  # noqa: SIM115  (closed in `close`)
        self.rows = csv.writer(self.file)

    def step(self, event: StepDone) -> str | None:
        score, kl = event.metrics["score"], event.metrics["kl"]
        self.rows.writerow([event.step, score, kl])
        return f"the score is {score:.2f}" if score >= self.goal else None

    def close(self) -> None:
        self.file.close()
