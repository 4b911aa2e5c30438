"""The learning curve of a run."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from ppo_lm.errors import writing
from ppo_lm.health.checks import steps_of
from ppo_lm.tracking.events import RunFinish, RunStart, StepDone
from ppo_lm.tracking.recorder import RECORDERS, Recorder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPANS = 16  # a smoothed point is the mean of the latest 1/16 of the run's steps


@RECORDERS.register("picture")
class Picture(Recorder):
    """`learning_curve.png`, drawn when the run ends: reward, monitor and KL by step."""

    def __init__(self) -> None:
        self.history: list[dict] = []
        self.monitor = "monitor"

    def start(self, event: RunStart) -> None:
        """Keep the rows of a resumed run."""
        self.history = steps_of(event.history)
        self.monitor = next((column.title for column in event.columns if column.name == "monitor"), "monitor")

    def step(self, event: StepDone) -> None:
        """Keep the row."""
        self.history.append({"step": event.step, **event.metrics})

    def finish(self, event: RunFinish) -> None:
        """Draw the picture."""
        if event.folder and any("score" in row for row in self.history):
            draw_learning_curve(self.history, self.monitor, event.folder / "learning_curve.png")


def draw_learning_curve(history: list[dict], monitor_name: str, file: Path) -> None:
    """Draw reward, monitor (if there is one) and KL by step to a PNG: a thin line for every step, and a bold one for
    the mean over the latest steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "score": "reward (mean score)",
        "monitor": f"{monitor_name} (never trained on)",
        "kl": "KL to the reference, nats per sequence",
    }
    panels = {name: title for name, title in panels.items() if any(name in row for row in history)}
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 3.2), layout="constrained", squeeze=False
    )
    for axis, (name, title) in zip(axes[0], panels.items()):
        known = [row for row in history if name in row]
        steps, values, width = [row["step"] for row in known], [row[name] for row in known], max(len(known) // SPANS, 1)
        axis.plot(steps, values, color="#1f6feb", linewidth=0.8, alpha=0.4)
        axis.plot(
            steps,
            [fmean(values[max(end - width, 0) : end]) for end in range(1, len(values) + 1)],
            color="#1f6feb",
            linewidth=1.8,
        )
        axis.set(title=title, xlabel="PPO step")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    write_picture(figure, file)


def write_picture(figure: Figure, file: Path) -> None:
    """Write a figure as a PNG, and close it. Raises `StorageError`."""
    from matplotlib import pyplot

    try:
        with writing(file):
            figure.savefig(file, dpi=120)
    finally:
        pyplot.close(figure)
