"""The report in a terminal, for those who sit on a server."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ppo_lm.terminal import printable, sparkline

Record = dict[str, Any]

SHOWN = (
    "score",
    "loss",
    "monitor",
    "kl",
    "entropy",
    "length",
    "ended",
    "explained_variance",
    "value_loss",
    "clip_fraction",
)
SPANS = 20  # first and last are means over a twentieth of the run
RESPONSES = 3
PROMPTS = 3
WARM, COOL = (200, 95, 10), (40, 110, 215)  # above and below zero


def show_report(runs: Sequence[Record], console: Console, colour_by: str = "advantages") -> None:
    """Print what `read_run_folder` found: curves, evaluations, health, a few responses with each token coloured by the
    number `colour_by`, and answers to held-out prompts. Texts are never interpreted."""
    for run in runs:
        steps = [f" of {setting['value']}" for setting in run["settings"] if setting["name"] == "steps"]
        console.rule(printable(f"{run['name']} ({run['stage']}): {run['done']}{''.join(steps)} steps"))
        console.print(_curves(run))
        for finding in run["health"]:
            _say(console, f"health: {finding}")
        for skipped in run["dropped"]:
            _say(console, f"step {skipped['step']} was skipped: {skipped['reason']}")
        if run["evaluations"]:
            console.print(_evaluations(run["evaluations"]))
        _show_tokens(run["tokens"], console, colour_by)
        _show_answers(run["answers"], console)


def _curves(run: Record) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("metric", "first", "last", "curve"):
        table.add_column(heading, justify="left" if heading in ("metric", "curve") else "right", no_wrap=True)
    rewards = [name for name in run["series"] if name.startswith("reward/")]
    for name in (*SHOWN[:1], *rewards, *SHOWN[1:]):
        values = run["series"].get(name, [])
        known = [value for value in values if value is not None]
        if known:
            span = max(len(known) // SPANS, 1)
            ends = [f"{fmean(part):.4g}" for part in (known[:span], known[-span:])]
            table.add_row(printable(name), *ends, sparkline(values))
    return table


def _evaluations(evaluations: Sequence[Record]) -> Table:
    names = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation["means"]))
    table = Table(title="held-out prompts", box=None, pad_edge=False)
    for heading in ("step", "sampling", *names):
        table.add_column(printable(heading), justify="right" if heading != "sampling" else "left")
    for evaluation in evaluations:
        means = [evaluation["means"].get(name) for name in names]
        cells = ["" if mean is None else f"{mean:.3g}" for mean in means]
        table.add_row(str(evaluation["step"]), printable(evaluation["name"].replace("_", " ")), *cells)
    return table


def _show_tokens(tokens: Record, console: Console, colour_by: str) -> None:
    if not tokens["steps"]:
        return
    step = tokens["steps"][-1]
    responses = [response for response in step["responses"] if colour_by in response["numbers"]][:RESPONSES]
    if not responses:
        return
    largest = max(abs(number) for response in responses for number in response["numbers"][colour_by] if number) or 1.0
    title = tokens["numbers"][colour_by]
    _say(console, f"\nstep {step['step']}, tokens by {title} (orange above 0, blue below, at most {largest:.3g}):")
    for response in responses:
        console.print(
            _coloured(response, colour_by, largest, with_numbers=console.color_system is None), soft_wrap=True
        )
        _say(console, f"  score {response['score']:.3g}, KL {sum(filter(None, response['numbers']['kl'])):.3g}")


def _coloured(response: Record, name: str, largest: float, with_numbers: bool) -> Text:
    """The response, each sampled token on its colour or, without colours, with its number behind it."""
    text = Text("  ")
    for piece, number, sampled in zip(response["pieces"], response["numbers"][name], response["sampled"]):
        shown = printable(piece)
        if not sampled or number is None:
            text.append(shown, Style(dim=True))
        elif with_numbers:
            text.append(f"{shown}[{number:+.2g}]")
        else:
            strength = min(abs(number) / largest, 1.0) ** 0.5
            red, green, blue = (round(part * strength) for part in (WARM if number > 0 else COOL))
            text.append(shown, Style(color="white", bgcolor=f"rgb({red},{green},{blue})"))
    return text


def _show_answers(answers: Sequence[Record], console: Console) -> None:
    for entry in answers[:PROMPTS]:
        prompt = entry["prompt"] if isinstance(entry["prompt"], str) else entry["prompt"][-1]["content"]
        _say(console, f"\n{prompt}", "dim")
        for answer in entry["answers"]:
            if answer["evaluation"] == "sampled":
                _say(console, f"  step {answer['step']} ({answer['score']:.3g}): {answer['completion'].strip()}")


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(printable(text), style=style, markup=False, soft_wrap=True)
