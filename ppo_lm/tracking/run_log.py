"""The record of a run: lines on the screen, and files in its folder."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from ppo_lm.config import PPOConfig
from ppo_lm.data import PromptSet
from ppo_lm.evaluation import Evaluation
from ppo_lm.tracking.picture import draw_learning_curve

SHOWN_SAMPLES = 3
COLUMNS = {"score": "reward", "kl": "KL", "monitor": "monitor", "length": "length", "ended": "ended"}


class RunLog:
    """Prints a line a step and an evaluation table; writes config.yaml, metrics.jsonl, samples.jsonl and learning_curve.png.

    With `config.output_dir` None it only prints; with `quiet` it only writes.
    """

    def __init__(self, config: PPOConfig, *, monitor_name: str | None = None, quiet: bool = False):
        self.config, self.console = config, Console(quiet=quiet, highlight=False)
        self.names = {**COLUMNS, "monitor": monitor_name or "monitor"}
        self.started, self.history, self.evaluations = time.monotonic(), [], []
        self.folder = make_run_folder(Path(config.output_dir).expanduser()) if config.output_dir else None
        if self.folder:
            settings = yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)
            (self.folder / "config.yaml").write_text(settings, encoding="utf-8")

    def start(self, model: str) -> None:
        """Say what is about to be trained, and where."""
        config = self.config
        self.console.print(f"PPO on {model}: {config.steps} steps of {config.batch_size} prompts", soft_wrap=True)

    def step(self, step: int, prompts: list[str], results: dict) -> None:
        """Record one `ppo_step`."""
        metrics = {name: value for name, value in results.items() if isinstance(value, (int, float))}
        self.history.append({"step": step, **metrics})
        self._append("metrics.jsonl", self.history[-1])
        if step % self.config.samples_every == 0 or step == self.config.steps:
            for prompt, text, score in zip(prompts, results["generated_texts"], results["rewards"]):
                self._append("samples.jsonl", {"step": step, "prompt": prompt, "completion": text, "score": score})
        left = sum(row["seconds"] for row in self.history) / step * (self.config.steps - step)
        shown = "  ".join(f"{title} {metrics[name]:6.3f}" for name, title in self.names.items() if name in metrics)
        self.console.print(
            f"step {step:>4}/{self.config.steps}  {shown}  {metrics['tokens_per_second']:5.0f} tokens/s  {_clock(left)} left", soft_wrap=True
        )

    def evaluation(self, step: int, prompts: PromptSet, results: dict[str, Evaluation]) -> None:
        """Record and print the evaluations made at `step`."""
        self.evaluations.append((step, prompts, results))
        table = Table(title=f"held-out evaluation at step {step}, {len(prompts)} prompts")
        table.add_column("sampling")
        shown = {name: title for name, title in self.names.items() if name != "monitor" or self._monitored(results)}
        for title in shown.values():
            table.add_column(title, justify="right")
        for name, evaluation in results.items():
            means = evaluation.means()
            self._append("metrics.jsonl", {"step": step, "evaluation": name, **means})
            table.add_row(name.replace("_", " "), *[f"{means[column]:.3f}" if column in means else "" for column in shown])
        self.console.print(table)

    def finish(self) -> None:
        """Print samples before and after, draw the learning curve, and say where everything is."""
        self._print_samples()
        if self.folder:
            draw_learning_curve(self.history, self.names["monitor"], self.folder / "learning_curve.png")
            self.console.print(f"Run took {_clock(time.monotonic() - self.started)}. Written to {self.folder}:", soft_wrap=True)
            for path in sorted(self.folder.iterdir()):
                self.console.print(f"  {path.name}{'/' if path.is_dir() else ''}")

    def _print_samples(self) -> None:
        if len(self.evaluations) < 2:
            return
        (_, prompts, before), (_, _, after) = self.evaluations[0], self.evaluations[-1]
        name = next(iter(before))
        for row in range(min(SHOWN_SAMPLES, len(prompts))):
            self.console.print(f"\n{prompts.prompts[row]}", style="dim", markup=False, soft_wrap=True)
            for when, evaluation in (("before", before[name]), ("after", after[name])):
                monitor = f", {self.names['monitor']} {evaluation.monitors[row]:.2f}" if evaluation.monitors else ""
                line = f"  {when:>6} (reward {evaluation.scores[row]:.2f}{monitor}): {evaluation.texts[row].strip()}"
                self.console.print(line, markup=False, soft_wrap=True)
        self.console.print()

    def _monitored(self, results: dict[str, Evaluation]) -> bool:
        return all(evaluation.monitor is not None for evaluation in results.values())

    def _append(self, name: str, record: dict) -> None:
        if self.folder:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def make_run_folder(wanted: Path) -> Path:
    """Make and return `wanted`, or `wanted-2`, `wanted-3`, … if a run is in it already: no run overwrites another."""
    folder, number = wanted, 1
    while folder.exists() and any(folder.iterdir()):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
