"""A run in a notebook: one display that is updated, above the plain lines."""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from html import escape
from typing import Any

from ppo_lm.live.state import Curve, RunState
from ppo_lm.progress import under_way
from ppo_lm.terminal import clock, printable
from ppo_lm.tracking import RunFinish, RunStart
from ppo_lm.tracking.screen import number

INTERVAL = 1.0  # seconds between two updates
WIDTH, HEIGHT = 180, 36  # of a curve, in pixels
POINTS = 180  # of a curve, at most
LONGEST = 2000  # characters shown of a text


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook, which shows HTML."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


class Notebook(RunState):
    """Shows a run in the output of a cell, from its start to its end; the last state remains."""

    def __init__(self) -> None:
        super().__init__()
        self._display: Any = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, event: RunStart) -> None:
        super().start(event)
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        self._display = display(HTML(draw_page(self)), display_id=True)
        context = contextvars.copy_context()  # says which cell's output this is
        self._thread = threading.Thread(target=context.run, args=(self._update_until_over,), daemon=True)
        self._thread.start()

    def finish(self, event: RunFinish) -> None:
        super().finish(event)
        self.close()

    def close(self) -> None:
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            self._thread = None
            self._update()

    def _update_until_over(self) -> None:
        while not self._over.wait(INTERVAL):
            self._update()

    def _update(self) -> None:
        from IPython.display import HTML  # pyright: ignore[reportMissingImports]

        self._display.update(HTML(draw_page(self)))


def draw_page(state: RunState) -> str:
    """HTML of progress, findings, curves and a sample."""
    left = state.seconds_left()
    times = f"{clock(time.monotonic() - state.began)} passed"
    if left is not None and not state.finished:
        times += f", about {clock(left)} left"
    work = "" if state.finished else " · ".join(map(str, under_way()))
    progress = f'<progress max="{max(state.steps, 1)}" value="{state.step_number}"></progress>' if state.steps else ""
    parts = [
        f"<div><b>step {state.step_number}/{state.steps}</b> {progress} {times} {_text(work)}</div>",
        *(f"<div>⚠ health: {_text(finding)}</div>" for finding in state.findings),
        '<div style="display:flex;flex-wrap:wrap;gap:4px 24px">',
        *(_draw_curve(curve) for curve in state.curves()),
        "</div>",
    ]
    if state.sample:
        sample = state.sample
        parts.append(
            f"<details open><summary>a response of step {sample.step}, score {number(sample.score, '.2f')}</summary>"
            f'<div style="white-space:pre-wrap;opacity:0.6">{_text(sample.prompt[-LONGEST:])}</div>'
            f'<div style="white-space:pre-wrap">{_text(sample.completion[:LONGEST])}</div></details>'
        )
    return "".join(parts)


def _draw_curve(curve: Curve) -> str:
    known = [(x, y) for x, y in enumerate(curve.values) if y is not None]
    known = known[:: -(-len(known) // POINTS) or 1]
    low, high = (edge((y for _, y in known), default=0.0) for edge in (min, max))
    across, up = WIDTH / max(len(curve.values) - 1, 1), (HEIGHT - 2) / ((high - low) or 1.0)
    points = " ".join(f"{x * across:.1f},{HEIGHT - 1 - (y - low) * up:.1f}" for x, y in known)
    return (
        f"<div><div>{_text(curve.column.title)} <b>{curve.latest}</b></div>"
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{_text(curve.column.title)} by step">'
        f'<polyline points="{points}" fill="none" stroke="currentColor"/></svg></div>'
    )


def _text(text: str) -> str:
    return escape(printable(text))
