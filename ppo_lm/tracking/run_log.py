"""The record of a run: lines on the screen, and files in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from ppo_lm.config import PPOConfig
from ppo_lm.data import DataReport, Prompt, PromptSet
from ppo_lm.data.examples import show_prompt
from ppo_lm.errors import NumericalFault, writing
from ppo_lm.evaluation import Evaluation
from ppo_lm.tracking.health import check_health, steps_of
from ppo_lm.tracking.log import Log
from ppo_lm.tracking.picture import draw_learning_curve
from ppo_lm.tracking.run_folder import clock, write_json, write_tensors

SHOWN_SAMPLES = 3
COLUMNS = {"score": "reward", "kl": "KL", "monitor": "monitor", "length": "length", "ended": "ended"}


class RunLog(Log):
    """Prints a line a step and an evaluation table; writes config.yaml, metrics.jsonl, samples.jsonl and
    learning_curve.png."""

    def __init__(
        self,
        config: PPOConfig,
        *,
        monitor_name: str | None = None,
        quiet: bool = False,
        resume: tuple[Path, int] | None = None,
    ):
        """`resume`: the folder of a paused run and the step it was saved after; what was recorded later is dropped."""
        super().__init__(config, config.output_dir, quiet=quiet, resume=resume)
        self.config, self.done = config, resume[1] if resume else 0
        self.names = {**COLUMNS, "monitor": monitor_name or "monitor"}
        self.steps = steps_of(self.rows)
        self._told = {finding.name for finding in check_health(self.steps, config)}

    def start(self, model: str, report: DataReport, warnings: Sequence[str] = ()) -> None:
        """Say what is about to be trained, where, on what, and what there is to know of a resumed run."""
        config, done = self.config, self.done
        copies = f" with {config.responses_per_prompt} responses each" if config.responses_per_prompt > 1 else ""
        self.say(
            f"PPO on {model}: {config.steps} steps of {config.batch_size // config.responses_per_prompt} "
            f"prompts{copies}" + (f", {done} done" if done else "")
        )
        self.data(report)
        self.warn(warnings)

    def step(self, step: int, prompts: list[Prompt], results: dict) -> None:
        """Record what one `ppo_step` returned, and say so if the run looks unhealthy."""
        metrics = {name: value for name, value in results.items() if isinstance(value, (int, float))}
        self.steps.append({"step": step, **metrics})
        self.record(self.steps[-1])
        if step % self.config.samples_every == 0 or step == self.config.steps:
            names, values = results["reward_parts"].keys(), zip(*results["reward_parts"].values())
            parts = [dict(zip(names, row)) for row in values]
            for prompt, text, score, rewards in zip(prompts, results["generated_texts"], results["rewards"], parts):
                self.append(
                    "samples.jsonl",
                    {"step": step, "prompt": prompt, "completion": text, "score": score, "rewards": rewards},
                )
        left = sum(row["seconds"] for row in self.steps) / len(self.steps) * (self.config.steps - step)
        shown = "  ".join(f"{title} {metrics[name]:6.3f}" for name, title in self.names.items() if name in metrics)
        self.say(
            f"step {step:>4}/{self.config.steps}  {shown}  {metrics['tokens_per_second']:5.0f} tokens/s  "
            f"{clock(left)} left"
        )
        for finding in check_health(self.steps, self.config):
            if finding.name not in self._told:
                self._told.add(finding.name)
                self.say(f"health: {finding.text}")

    def dropped(self, step: int, prompts: list[Prompt], fault: NumericalFault) -> None:
        """Record a step that was dropped, and write its batch to `dropped/step-NNNNNN`, for study: prompts.json, and
        what there was of the pairs."""
        self.record({"step": step, "dropped": str(fault)})
        where = ""
        if self.folder:
            aside = self.folder / "dropped" / f"step-{step:06d}"
            with writing(aside):
                aside.mkdir(parents=True, exist_ok=True)
            write_json(aside / "prompts.json", {"fault": str(fault), "prompts": prompts})
            if fault.batch is not None:
                write_tensors(aside / "pairs.safetensors", fault.batch.columns())
            where = f"; its batch is in {aside}"
        self.say(f"step {step:>4}/{self.config.steps}  dropped, nothing was trained: {fault}{where}")

    def evaluation(self, step: int, prompts: PromptSet, results: dict[str, Evaluation]) -> None:
        """Record and print the evaluations made at `step`."""
        table = Table(title=f"held-out evaluation at step {step}, {len(prompts)} prompts")
        table.add_column("sampling")
        shown = {name: title for name, title in self.names.items() if name != "monitor" or self._monitored(results)}
        for title in shown.values():
            table.add_column(title, justify="right")
        for name, evaluation in results.items():
            means = evaluation.means()
            self.record({"step": step, "evaluation": name, **means})
            table.add_row(
                name.replace("_", " "), *[f"{means[column]:.3f}" if column in means else "" for column in shown]
            )
        self.console.print(table)

    def finish(self, prompts: PromptSet, evaluations: dict[str, list[Evaluation]]) -> None:
        """Print samples from the first and the last evaluation, draw the learning curve, and say where everything
        is."""
        for made in list(evaluations.values())[:1]:
            self._print_samples(prompts, made[0], made[-1])
        if self.steps:
            self._print_phases(self.steps)
        if self.folder and self.steps:
            with writing(self.folder / "learning_curve.png"):
                draw_learning_curve(self.steps, self.names["monitor"], self.folder / "learning_curve.png")
        self.say_where()

    def _print_phases(self, steps: list[dict]) -> None:
        """Where the seconds of the steps went."""
        total = sum(row["seconds"] for row in steps)
        phases = {
            name.removeprefix("seconds/"): sum(row[name] for row in steps)
            for name in steps[-1]
            if name.startswith("seconds/")
        }
        if phases:
            parts = ", ".join(f"{phase} {clock(spent)} ({spent / total:.0%})" for phase, spent in phases.items())
            memory = steps[-1]["peak_memory_mib"]
            self.console.print(f"The steps took {clock(total)}: {parts}; peak memory {memory:,.0f} MiB", soft_wrap=True)
        floors = {
            phase: [(row[f"floor/{phase}"], row[f"seconds/{phase}"]) for row in steps if f"floor/{phase}" in row]
            for phase in phases
        }
        if any(floors.values()):
            shares = ", ".join(
                f"{phase} {sum(a * b for a, b in said) / sum(b for _, b in said):.0%}"
                for phase, said in floors.items()
                if said
            )
            self.console.print(
                f"Of that, this machine's matrix products and memory need no less than: {shares}", soft_wrap=True
            )

    def _print_samples(self, prompts: PromptSet, before: Evaluation, after: Evaluation) -> None:
        for row in range(min(SHOWN_SAMPLES, len(prompts))):
            self.console.print(f"\n{show_prompt(prompts.prompts[row])}", style="dim", markup=False, soft_wrap=True)
            for when, evaluation in (("before", before), ("after", after)):
                monitor = (
                    f", {self.names['monitor']} {evaluation.monitors[row]:.2f}"
                    if evaluation.monitors and evaluation.monitors[row] is not None
                    else ""
                )
                line = f"  {when:>6} (reward {evaluation.scores[row]:.2f}{monitor}): {evaluation.texts[row].strip()}"
                self.console.print(line, markup=False, soft_wrap=True)
        self.console.print()

    def _monitored(self, results: dict[str, Evaluation]) -> bool:
        return all(evaluation.monitor is not None for evaluation in results.values())
