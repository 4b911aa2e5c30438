"""The learning curve of a run."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

SPANS = 16  # a smoothed point is the mean of the latest 1/16 of the run's steps


def draw_learning_curve(history: list[dict], monitor_name: str, file: Path) -> None:
    """Draw reward, monitor (if there is one) and KL by step into a PNG: a thin line a step, and a bold one that is the
    mean of the latest steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "score": "reward (mean score)",
        "monitor": f"{monitor_name} (never trained on)",
        "kl": "KL to the reference, nats a sequence",
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
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
