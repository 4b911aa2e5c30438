"""The record of a run: lines on the screen, and files in its folder."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ppo_lm.config import PPOConfig
from ppo_lm.data import DataReport, Prompt, PromptSet
from ppo_lm.data.examples import show_prompt
from ppo_lm.evaluation import Evaluation
from ppo_lm.tracking.picture import draw_learning_curve
from ppo_lm.tracking.run_folder import append_record, clock, drop_later_steps, make_run_folder, write_config

SHOWN_SAMPLES = 3
COLUMNS = {"score": "reward", "kl": "KL", "monitor": "monitor", "length": "length", "ended": "ended"}


class RunLog:
    """Prints a line a step and an evaluation table; writes config.yaml, metrics.jsonl, samples.jsonl and learning_curve.png.

    With `config.output_dir` None it only prints; with `quiet` it only writes.
    """

    def __init__(self, config: PPOConfig, *, monitor_name: str | None = None, quiet: bool = False, resume: tuple[Path, int] | None = None):
        """`resume`: the folder of a paused run and the step it was saved after; what was recorded later is dropped."""
        self.config, self.console = config, Console(quiet=quiet, highlight=False)
        self.names = {**COLUMNS, "monitor": monitor_name or "monitor"}
        self.started, self.history = time.monotonic(), []
        if resume is not None:
            self.folder = resume[0].expanduser()
            self.history = [row for row in drop_later_steps(self.folder, resume[1]) if "evaluation" not in row]
        elif config.output_dir:
            self.folder = make_run_folder(Path(config.output_dir).expanduser())
            write_config(self.folder, config)
        else:
            self.folder = None

    def start(self, model: str, report: DataReport, warnings: Sequence[str] = ()) -> None:
        """Say what is about to be trained, where, on what, and what there is to know of a resumed run."""
        config, done = self.config, len(self.history)
        self.console.print(f"PPO on {model}: {config.steps} steps of {config.batch_size} prompts" + (f", {done} done" if done else ""), soft_wrap=True)
        self.console.print("\n".join([*report.lines(), *warnings]), markup=False, soft_wrap=True)
        if self.folder:
            (self.folder / "data_report.json").write_text(json.dumps(report.as_dict(), indent=1, default=str) + "\n", encoding="utf-8")

    def step(self, step: int, prompts: list[Prompt], results: dict, components: dict[str, torch.Tensor]) -> None:
        """Record one `ppo_step`. `components`: the scores (B,) by each reward's name."""
        metrics = {name: value for name, value in results.items() if isinstance(value, (int, float))}
        self.history.append({"step": step, **metrics})
        self._append("metrics.jsonl", self.history[-1])
        if step % self.config.samples_every == 0 or step == self.config.steps:
            parts = [dict(zip(components, values)) for values in zip(*(scores.tolist() for scores in components.values()))]
            for prompt, text, score, part in zip(prompts, results["generated_texts"], results["rewards"], parts):
                rewards = {name: None if math.isnan(value) else value for name, value in part.items()}
                self._append("samples.jsonl", {"step": step, "prompt": prompt, "completion": text, "score": score, "rewards": rewards})
        left = sum(row["seconds"] for row in self.history) / step * (self.config.steps - step)
        shown = "  ".join(f"{title} {metrics[name]:6.3f}" for name, title in self.names.items() if name in metrics)
        self.console.print(
            f"step {step:>4}/{self.config.steps}  {shown}  {metrics['tokens_per_second']:5.0f} tokens/s  {clock(left)} left", soft_wrap=True
        )

    def evaluation(self, step: int, prompts: PromptSet, results: dict[str, Evaluation]) -> None:
        """Record and print the evaluations made at `step`."""
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

    def finish(self, prompts: PromptSet, evaluations: dict[str, list[Evaluation]]) -> None:
        """Print samples from the first and the last evaluation, draw the learning curve, and say where everything is."""
        for made in list(evaluations.values())[:1]:
            self._print_samples(prompts, made[0], made[-1])
        self._print_phases()
        if self.folder:
            draw_learning_curve(self.history, self.names["monitor"], self.folder / "learning_curve.png")
            self.console.print(f"Run took {clock(time.monotonic() - self.started)}. Written to {self.folder}:", soft_wrap=True)
            for path in sorted(self.folder.iterdir()):
                self.console.print(f"  {path.name}{'/' if path.is_dir() else ''}")

    def _print_phases(self) -> None:
        """Where the seconds of the steps went."""
        total = sum(row["seconds"] for row in self.history)
        phases = {name.removeprefix("seconds/"): sum(row[name] for row in self.history) for name in self.history[-1] if name.startswith("seconds/")}
        if phases:
            parts = ", ".join(f"{phase} {clock(spent)} ({spent / total:.0%})" for phase, spent in phases.items())
            memory = self.history[-1]["peak_memory_mib"]
            self.console.print(f"The steps took {clock(total)}: {parts}; peak memory {memory:,.0f} MiB", soft_wrap=True)
        floors = {phase: sum(row[f"floor/{phase}"] * row[f"seconds/{phase}"] for row in self.history) / spent for phase, spent in phases.items() if f"floor/{phase}" in self.history[-1]}
        if floors:
            shares = ", ".join(f"{phase} {share:.0%}" for phase, share in floors.items())
            self.console.print(f"Of that, this machine's matrix products and memory need no less than: {shares}", soft_wrap=True)

    def _print_samples(self, prompts: PromptSet, before: Evaluation, after: Evaluation) -> None:
        for row in range(min(SHOWN_SAMPLES, len(prompts))):
            self.console.print(f"\n{show_prompt(prompts.prompts[row])}", style="dim", markup=False, soft_wrap=True)
            for when, evaluation in (("before", before), ("after", after)):
                monitor = f", {self.names['monitor']} {evaluation.monitors[row]:.2f}" if evaluation.monitors and evaluation.monitors[row] is not None else ""
                line = f"  {when:>6} (reward {evaluation.scores[row]:.2f}{monitor}): {evaluation.texts[row].strip()}"
                self.console.print(line, markup=False, soft_wrap=True)
        self.console.print()

    def _monitored(self, results: dict[str, Evaluation]) -> bool:
        return all(evaluation.monitor is not None for evaluation in results.values())

    def _append(self, name: str, record: dict) -> None:
        if self.folder:
            append_record(self.folder / name, record)
