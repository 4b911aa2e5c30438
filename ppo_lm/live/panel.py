"""The panel below what a run prints on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from ppo_lm.live.state import Curve, RunState, Sample
from ppo_lm.progress import under_way
from ppo_lm.terminal import clock, sparkline
from ppo_lm.terminal.pinned import Line, Size, cut, pinned
from ppo_lm.terminal.text import ASCII_BARS, BARS
from ppo_lm.terminal.working import can_encode, describe_work
from ppo_lm.tracking import RunFinish, RunStart
from ppo_lm.tracking.screen import number

TITLE, NUMBER, CURVE = 14, 8, 30  # columns of a terminal; of a curve, the most
COLUMN = 39  # what a metric takes at least, its gap included
FINDINGS = 2
DIM, BOLD, YELLOW, CYAN = 2, 1, 33, 36  # SGR


class Live(RunState):
    """Pins the panel from the start of a run to its end. What is printed meanwhile, such as the lines of `Screen`,
    scrolls above it and remains when it goes."""

    def __init__(self) -> None:
        super().__init__()
        self._pinned = ExitStack()
        self._body = _Body([], (-1, 0))
        self._encoding = sys.stdout.encoding  # while the panel is drawn, sys.stdout may be redirected

    def start(self, event: RunStart) -> None:
        super().start(event)
        self._pinned.enter_context(pinned(sys.stdout, self.draw))

    def finish(self, event: RunFinish) -> None:
        super().finish(event)
        self._pinned.close()

    def close(self) -> None:
        self._pinned.close()

    def draw(self, size: Size) -> list[Line]:
        """The panel for a terminal of this size."""
        width, encoding = size.width - 1, self._encoding
        key = (self.changes, width)  # from before the drawing: an event during it makes it out of date
        if self._body.key != key:
            self._body = _Body(draw_body(self, width, can_encode(BARS, encoding)), key)
        phases = under_way()
        now = describe_work(phases, encoding, width) if phases else ""
        head = [draw_progress(self, width, can_encode("━─", encoding)), styled([(now, CYAN)], width)]
        return [*head, *self._body.lines][: max(size.height * 2 // 3, 2)]


class _Body(NamedTuple):
    """Everything that changes with the events only."""

    lines: list[Line]
    key: tuple[int, int]


def draw_progress(state: RunState, width: int, unicode: bool) -> Line:
    """How far the run is, and how long it will take."""
    passed, left = clock(time.monotonic() - state.began), state.seconds_left()
    times = f"{passed} passed" + ("" if left is None else f", about {clock(left)} left")
    if not state.steps:
        return styled([(times, DIM)], width)
    count = f"step {state.step_number}/{state.steps}"
    room = max(width - len(count) - len(times) - 4, 0)
    full = room * state.step_number // state.steps
    done, rest = ("━", "─") if unicode else ("#", "-")
    return styled(
        [(count, BOLD), ("  ", 0), (done * full, CYAN), (rest * (room - full) + "  ", DIM), (times, DIM)], width
    )


def draw_body(state: RunState, width: int, unicode: bool) -> list[Line]:
    """Findings, curves, speeds, a sample and the latest evaluation; the most important first, because a low terminal
    shows the first lines only."""
    lines = [styled([("health: ", YELLOW), (text, YELLOW)], width) for text in state.findings[-FINDINGS:]]
    if state.skipped_steps:
        lines.append(styled([(f"skipped steps: {state.skipped_steps}", YELLOW)], width))
    return [
        *lines,
        *_draw_curves(state.curves(), width, unicode),
        *_draw_cost(state, width),
        *_draw_sample(state.sample, width),
        *_draw_evaluation(state, width),
    ]


def _draw_curves(curves: Sequence[Curve], width: int, unicode: bool) -> list[Line]:
    """A table read in rows, in as many columns as fit."""
    columns = max(width // COLUMN, 1)
    room = min(width // columns - TITLE - NUMBER - 4, CURVE)
    cells = [_draw_curve(curve, room, BARS if unicode else ASCII_BARS) for curve in curves]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return [styled([part for cell in row for part in cell], width) for row in rows]


def _draw_curve(curve: Curve, room: int, bars: str) -> list[tuple[str, int]]:
    title = cut(curve.column.title, TITLE)
    padding = " " * (TITLE - title.cells + NUMBER - len(curve.latest))
    return [
        (title.text, DIM),
        (padding + curve.latest, BOLD),
        (f" {sparkline(curve.values, room, bars):<{room}}   ", CYAN),
    ]


def _draw_cost(state: RunState, width: int) -> list[Line]:
    speeds = {name: f"{speed:,.0f}" for name, speed in state.speeds().items()}
    memory = state.peak_memory()
    more = {} if memory is None else {"memory": f"{memory:,.0f} MiB"}
    return _draw_pairs("tokens/s  ", speeds | more, width) if speeds else []


def _draw_sample(sample: Sample | None, width: int) -> list[Line]:
    """The end of the prompt and the beginning of the response."""
    if sample is None:
        return []
    label = f"step {sample.step}, a prompt  "
    room = max(width - len(label), 0)
    prompt = " ".join(sample.prompt[-4 * width :].split())[-room:]
    response = " ".join(sample.completion[: 4 * width].split())
    score = f"response ({number(sample.score, '.2f')})"
    return [
        styled([(label, DIM), (prompt, 0)], width),
        styled([(f"{score:<{len(label)}}", DIM), (response, 0)], width),
    ]


def _draw_evaluation(state: RunState, width: int) -> list[Line]:
    evaluation, lines = state.evaluation_done, []
    for name, means in evaluation.means.items() if evaluation else ():
        shown = {column.title: means[column.name] for column in state.columns if column.name in means} or means
        label = f"held out, {name.replace('_', ' ')}  "
        lines += _draw_pairs(label, {title: number(value, ".3f") for title, value in shown.items()}, width)
    return lines


def _draw_pairs(label: str, pairs: Mapping[str, str], width: int) -> list[Line]:
    """Names with their numbers, in as many lines as they need."""
    rows, room = [[(label, DIM)]], width - len(label)
    for name, text in pairs.items():
        needed = cut(f"{name} {text}  ", width).cells
        if needed > room:
            rows.append([(" " * len(label), 0)])
            room = width - len(label)
        rows[-1] += [(f"{name} ", DIM), (f"{text}  ", BOLD)]
        room -= needed
    return [styled(row, width) for row in rows]


def styled(parts: Sequence[tuple[str, int]], width: int) -> Line:
    """The parts, each with its style (0 for none), as far as they fit into `width` columns."""
    text, cells = "", 0
    for part, style in parts:
        shown = cut(part, width - cells)
        text += f"\x1b[{style}m{shown.text}\x1b[0m" if style and shown.text else shown.text
        cells += shown.cells
    return Line(text, cells)
