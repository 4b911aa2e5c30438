"""The record of a supervised stage: lines on the screen, and config.yaml, data_report.json and metrics.jsonl in its folder."""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console

from ppo_lm.config.settings import Settings
from ppo_lm.data import DataReport
from ppo_lm.tracking.run_folder import append_record, clock, make_run_folder, write_config

LINES = 20  # of progress, over a stage


class StageLog:
    """Say what a stage does, and keep it in `folder`, a fresh one at or next to `output_dir`."""

    def __init__(self, config: Settings, output_dir: str, quiet: bool = False):
        self.console = Console(quiet=quiet, highlight=False)
        self.folder = make_run_folder(Path(output_dir).expanduser())
        write_config(self.folder, config)
        self.started, self._recent = time.monotonic(), []

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def data(self, *reports: DataReport) -> None:
        """Print the reports of what is about to be trained on, and keep them."""
        for report in reports:
            self.say("\n".join(report.lines()))
        (self.folder / "data_report.json").write_text(json.dumps([r.as_dict() for r in reports], indent=1, default=str) + "\n", encoding="utf-8")

    def step(self, step: int, total: int, loss: float, learning_rate: float) -> None:
        """Record one optimiser step."""
        if step == 1:
            self.training_started = time.monotonic()
        append_record(self.folder / "metrics.jsonl", {"step": step, "loss": loss, "learning_rate": learning_rate})
        self._recent.append(loss)
        if step % max(1, total // LINES) == 0 or step == total:
            left = (time.monotonic() - self.training_started) / max(step - 1, 1) * (total - step)
            self.say(f"step {step:>5}/{total}  loss {sum(self._recent) / len(self._recent):.4f}  {clock(left)} left")
            self._recent.clear()

    def evaluation(self, when: str, numbers: dict[str, float]) -> None:
        """Record and print what was measured on held-out data."""
        append_record(self.folder / "metrics.jsonl", {"evaluation": when, **numbers})
        self.say(f"held out, {when}: " + "  ".join(f"{name} {value:.4f}" for name, value in numbers.items()))

    def finish(self) -> None:
        """Say where everything is."""
        self.say(f"Run took {clock(time.monotonic() - self.started)}. Written to {self.folder}:")
        for path in sorted(self.folder.iterdir()):
            self.say(f"  {path.name}{'/' if path.is_dir() else ''}")
