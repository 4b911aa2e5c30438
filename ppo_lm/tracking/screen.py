"""A run on the screen: what is trained, a line per step, evaluations as tables, and where everything was written."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import fmean

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from ppo_lm.data.examples import show_prompt
from ppo_lm.health import Finding
from ppo_lm.health.checks import steps_of
from ppo_lm.terminal import clock, printable, wrapped
from ppo_lm.tracking.events import Column, EvaluationDone, RunFinish, RunStart, StepDone, StepSkipped
from ppo_lm.tracking.recorder import RECORDERS, Recorder


@RECORDERS.register("screen")
class Screen(Recorder):
    """Prints a run. Text from data and models is never interpreted as markup."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False)
        self.columns: Sequence[Column] = ()
        self.every = 1
        self.steps: list[Mapping[str, float]] = []  # of all steps so far, including a resumed run's earlier ones
        self.waiting: list[Mapping[str, float]] = []  # since the last line
        self.durations: list[float] = []  # seconds of the steps so far
        self.resumed_at = 0  # the steps that an earlier part of the run had done
        self.started = self.last = time.monotonic()

    def notice(self, text: str) -> None:
        """Print a line; see `printable`."""
        self._print(text)

    def start(self, event: RunStart) -> None:
        """Print the headline, the notices and the data reports."""
        self.columns, self.every = event.columns, max(event.steps // event.lines, 1) if event.lines else 1
        self.steps = [*steps_of(event.history)]
        self.durations = [row["seconds"] for row in self.steps if "seconds" in row]
        self.resumed_at = event.done
        self.notice(event.headline + (f", {event.done} done" if event.done else ""))
        for sentence in event.notices:
            self.notice(sentence)
        for report in event.reports:
            self.notice("\n".join(report.lines()))
        self.last = time.monotonic()

    def step(self, event: StepDone) -> None:
        """Print a line with the means since the last one, the speed, and the time left. What does not fit into the
        width is left out, the speed first."""
        now = time.monotonic()
        self.durations.append(event.metrics.get("seconds", now - self.last))
        self.last = now
        self.steps.append(event.metrics)
        self.waiting.append(event.metrics)
        if event.step % self.every and event.step != event.steps:
            return
        columns = [*self.columns, Column("tokens_per_second", "tokens/s", "5.0f")]
        known = [(column, value) for column in columns if (value := self._mean(column.name)) is not None]
        left = fmean(self.durations) * (event.steps - event.step)
        cells = [f"{column.title} {number(value, column.format)}" for column, value in known]
        self.notice(fit(_step(event), cells, f"{clock(left)} left", self.console.width))
        self.waiting.clear()

    def skipped(self, event: StepSkipped) -> None:
        """Print why, and where the batch is kept."""
        where = f"; its batch is in {event.folder}" if event.folder else ""
        self.notice(f"{_step(event)}  skipped, nothing was trained: {event.reason}{where}")

    def evaluation(self, event: EvaluationDone) -> None:
        """Print a line with all numbers, or a table of the columns if there are several kinds of evaluation; nothing if
        there was nothing to evaluate on."""
        self.last = time.monotonic()  # measuring is not a step
        if not any(event.means.values()):
            return
        if len(event.means) == 1:
            for name, numbers in event.means.items():
                text = "  ".join(f"{title} {number(value, '.4f')}" for title, value in numbers.items())
                self.notice(f"held out, {name}: {text}")
            return
        if not self.columns:
            return
        shown = [c for c in self.columns if any(c.name in numbers for numbers in event.means.values())]
        prompts = f"{event.examples:,} prompt{'s' * (event.examples != 1)}"
        table = Table(title=f"held-out evaluation at step {event.step}, {prompts}")
        table.add_column("sampling")
        for column in shown:
            table.add_column(printable(column.title), justify="right")
        for name, numbers in event.means.items():
            cells = [number(numbers[column.name], ".3f") if column.name in numbers else "" for column in shown]
            table.add_row(printable(name.replace("_", " ")), *cells)
        self.console.print(table)

    def finding(self, event: Finding) -> None:
        """A line."""
        self.notice(f"health: {event.text}")

    def finish(self, event: RunFinish) -> None:
        """Print examples, where the time went, and what was written."""
        for prompt, answers in event.examples:
            self._print(f"\n{show_prompt(prompt)}", style="dim")
            for answer in answers:
                numbers = ", ".join(f"{name} {number(value, '.2f')}" for name, value in answer.numbers.items())
                self.notice(f"  {answer.when:>6} ({numbers}): {answer.text.strip()}")
        if event.examples:
            self.notice("")
        if event.reason:
            self.notice(f"stopped after step {event.done}: {event.reason}")
        self._phases()
        if event.folder:
            took = (
                f"{'This part of the run' if self.resumed_at else 'Run'} took {clock(time.monotonic() - self.started)}"
            )
            self.notice(f"{took}. Written to {event.folder}:")
            for path in sorted(event.folder.iterdir()):
                if not path.name.startswith("."):
                    self.notice(f"  {path.name}{'/' if path.is_dir() else ''}")

    def _print(self, text: str, style: str | None = None) -> None:
        """Long sentences are wrapped at words on a terminal. As in Markdown, four spaces mark what stays in one piece,
        such as a command to copy."""
        shown = printable(text)
        if self.console.is_terminal:
            shown = wrapped(shown, self.console.width)
        self.console.print(shown, style=style, markup=False, soft_wrap=True)

    def _mean(self, name: str) -> float | None:
        known = [row[name] for row in self.waiting if name in row]
        return fmean(known) if known else None

    def _phases(self) -> None:
        """Print where the time of the steps went, and its lower bound on this machine."""
        timed = [row for row in self.steps if "seconds" in row]
        if not timed:
            return
        names = [name.removeprefix("seconds/") for name in timed[-1] if name.startswith("seconds/")]
        total = sum(row["seconds"] for row in timed)
        if names:
            spent = {name: sum(row.get(f"seconds/{name}", 0.0) for row in timed) for name in names}
            parts = ", ".join(f"{name} {clock(seconds)} ({seconds / total:.0%})" for name, seconds in spent.items())
            memory = timed[-1]["peak_memory_mib"]
            steps = f"All {len(timed):,} steps" if self.resumed_at else "The steps"
            self.notice(f"{steps} took {clock(total)}: {parts}; peak memory {memory:,.0f} MiB")
        shares = []
        for name in names:
            known = [(row[f"floor/{name}"], row[f"seconds/{name}"]) for row in timed if f"floor/{name}" in row]
            if known:
                needed = sum(share * seconds for share, seconds in known) / sum(seconds for _, seconds in known)
                shares.append(f"{name} {min(needed, 1.0):.0%}")  # the machine may be faster than it was measured to be
        if shares:
            self.notice(f"Of that, matrix products and memory need at least: {', '.join(shares)}")


def number(value: float, spec: str) -> str:
    """A number for people: zero has no sign."""
    text = format(value, spec)
    return text.lstrip("+-") if text[:1] in "+-" and not float(text) else text


def fit(first: str, cells: Sequence[str], last: str, width: int) -> str:
    """A line of as many cells as fit into `width` columns between the first and the last, which always stay."""
    for count in range(len(cells), 0, -1):
        line = "  ".join([first, *cells[:count], last])
        if cell_len(line) <= width:
            return line
    return f"{first}  {last}"


def _step(event: StepDone | StepSkipped) -> str:
    return f"step {event.step:>{len(str(event.steps))}}/{event.steps}"
