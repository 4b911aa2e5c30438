"""The record of a supervised stage."""

from __future__ import annotations

import time
from collections.abc import Callable

from ppo_lm.tracking.log import Log
from ppo_lm.tracking.run_folder import clock

LINES = 20  # of progress, over a stage


class StageLog(Log):
    """Say what a stage does, and keep it."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._first: tuple[int, float] | None = None  # step of this process, and when it ended
        self._recent: list[float] = []
        self.last_step = max((row["step"] for row in self.rows), default=0)

    def step(self, step: int, total: int, loss: float, learning_rate: float) -> None:
        """Record one optimiser step."""
        self.last_step, self._first = step, self._first or (step, time.monotonic())
        self.record({"step": step, "loss": loss, "learning_rate": learning_rate})
        self._recent.append(loss)
        if step % max(1, total // LINES) == 0 or step == total:
            first, since = self._first
            left = (time.monotonic() - since) / max(step - first, 1) * (total - step)
            self.say(f"step {step:>5}/{total}  loss {sum(self._recent) / len(self._recent):.4f}  {clock(left)} left")
            self._recent.clear()

    def evaluation(self, step: int, when: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Measure on held-out data, record, print and return it; a run that goes on returns what is recorded
        already."""
        for row in self.rows:
            if row.get("evaluation") == when:
                return {name: value for name, value in row.items() if name not in ("step", "evaluation")}
        numbers = measure()
        self.record({"step": step, "evaluation": when, **numbers})
        self.say(f"held out, {when}: " + "  ".join(f"{name} {value:.4f}" for name, value in numbers.items()))
        return numbers
