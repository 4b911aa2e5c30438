"""The results of a comparison: tables, results.json, report.md and its chart."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ppo_lm.comparison.exposure import Exposure
from ppo_lm.comparison.results import Standing
from ppo_lm.evaluation.intervals import Interval
from ppo_lm.saving import write_json, write_text
from ppo_lm.terminal import printable
from ppo_lm.tracking import write_picture
from ppo_lm.tracking.screen import number as show

RESULTS = "results.json"
MEASURES = {
    "score": "score",
    "win_rate": "win rate",
    "length_controlled": "win rate at equal length",
    "kl": "KL",
    "entropy": "entropy",
    "length": "length",
    "ended": "ended",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
}
NOTES = """Score: the judge's mean score, with Student's 95% interval over prompts. Win rate: the share of prompts on
which the judge scores the completion above the baseline's (ties count half), with the interval of Clopper and Pearson;
at equal length: the same, from a logistic fit that removes the effect of the difference in length, with the interval of
its penalised profile likelihood (Firth). These intervals hold for few prompts too. KL: to the first model, in nats per
completion. Entropy: nats per token. Length: tokens. Ended: the share of completions that end with the model's end
token. Distinct-n: distinct word n-grams as a share of all."""


def print_tables(results: dict[str, list[Standing]], exposure: Exposure, console: Console) -> None:
    """Print a table per kind of sampling, with a column per policy."""
    for kind, rows in results.items():
        table = Table(
            "",
            *[Column(Text(printable(row.name))) for row in rows],
            title=Text(printable(f"{kind.replace('_', ' ')}, {exposure.describe()}, baseline {rows[0].name}")),
        )
        for line in table_lines(rows):
            table.add_row(*line)
        console.print(table)


def write_results(results: dict[str, list[Standing]], exposure: Exposure, judge: str, folder: Path) -> None:
    """Write results.json, report.md and comparison.png into `folder`."""
    plain = {
        kind: [{name: _plain(value) for name, value in vars(row).items()} for row in rows]
        for kind, rows in results.items()
    }
    data = {"prompts": exposure.prompts, "unseen_by_runs": exposure.unseen_by_runs, "seen": exposure.seen}
    write_json(folder / RESULTS, {**data, "judge": judge, **plain})
    lines = ["# Comparison", "", f"{exposure.describe()}, judged by `{judge}`.", ""]
    lines += [line for sentence in exposure.sentences for line in (f"{sentence}.", "")]
    for kind, rows in results.items():
        names = [row.name.replace("|", " ") for row in rows]
        lines += [
            f"## {kind.replace('_', ' ').capitalize()}",
            "",
            f"| | {' | '.join(names)} |",
            "|---" * (len(rows) + 1) + "|",
        ]
        lines += [f"| {' | '.join(line)} |" for line in table_lines(rows)]
        lines.append("")
    lines += ["![Scores and win rates](comparison.png)", "", NOTES]
    write_text(folder / "report.md", "\n".join(lines) + "\n")
    draw_comparison(results, folder / "comparison.png")


def table_lines(rows: list[Standing]) -> list[list[str]]:
    """A line per measure: its name, then each policy's number, empty if it was not measured."""
    return [[title, *[_show(getattr(row, name)) for row in rows]] for name, title in MEASURES.items()]


def _show(value: Interval | float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, Interval) else show(value, ".3f")


def draw_comparison(results: dict[str, list[Standing]], file: Path) -> None:
    """Draw scores on the left and win rates over the baseline on the right, both with intervals, in one colour per kind
    of sampling."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [row.name for row in next(iter(results.values()))]
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(9, 1.6 + 0.5 * len(names)), layout="constrained", sharey=True
    )
    for number, (kind, rows) in enumerate(results.items()):
        places = [i + 0.15 * number for i in range(len(rows))]
        colour = ("#1f6feb", "#d1495b", "#2e8b57")[number % 3]
        _draw(left, places, [row.score for row in rows], colour, kind.replace("_", " "))
        known = [
            (place, interval) for place, row in zip(places, rows) for interval in [row.win_rate] if interval is not None
        ]
        _draw(right, [place for place, _ in known], [interval for _, interval in known], colour, None)
    left.set(title="judge's score", yticks=range(len(names)), yticklabels=names)
    left.invert_yaxis()
    left.legend(fontsize=8)
    right.axvline(0.5, color="#999999", linewidth=1, linestyle="--")
    right.set(title=f"win rate over {names[0]}", xlim=(0, 1))
    for axis in (left, right):
        axis.grid(alpha=0.3, axis="x")
    write_picture(figure, file)


def _draw(axis, places: list[float], intervals: list[Interval], colour: str, label: str | None) -> None:
    middles = [interval.estimate for interval in intervals]
    around = [[m - i.low for m, i in zip(middles, intervals)], [i.high - m for m, i in zip(middles, intervals)]]
    axis.errorbar(middles, places, xerr=around, fmt="o", color=colour, capsize=3, label=label)


def _plain(value):
    return value._asdict() if isinstance(value, Interval) else value
