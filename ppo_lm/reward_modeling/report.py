"""How good a reward model is on held-out comparisons: accuracy, calibration and length bias (2403.17031, details 16 and
18)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ppo_lm.evaluation.intervals import Interval, share_interval
from ppo_lm.evaluation.statistics import calibration_error, correlation, reliability
from ppo_lm.saving import write_text
from ppo_lm.tracking import write_picture


@dataclass(frozen=True)
class RewardReport:
    """Scores (N,), not yet normalised, and lengths in tokens of both sides of N held-out comparisons; everything else
    is derived from them."""

    chosen: list[float]
    rejected: list[float]
    chosen_lengths: list[int]
    rejected_lengths: list[int]
    sources: list[str | None]

    @property
    def margins(self) -> np.ndarray:
        return np.asarray(self.chosen) - np.asarray(self.rejected)

    @property
    def correct(self) -> np.ndarray:
        return (self.margins > 0).astype(float)

    @property
    def confidences(self) -> np.ndarray:
        """σ(|margin|): the probability that the model gives the side it prefers."""
        return 1 / (1 + np.exp(-np.abs(self.margins)))

    @cached_property
    def accuracy(self) -> Interval:
        return share_interval(self.correct)

    @property
    def calibration_error(self) -> float:
        return calibration_error(self.confidences, self.correct)

    @property
    def length_correlation(self) -> float | None:
        """Correlation between score and length in tokens, over all completions; None for a single comparison, whose two
        completions always correlate perfectly."""
        if len(self.chosen) < 2:
            return None
        return correlation(self.chosen + self.rejected, self.chosen_lengths + self.rejected_lengths)

    def prefers_longer(self) -> tuple[Interval, Interval] | None:
        """Share of comparisons of unequal length in which (the model, the human) prefers the longer side; None if there
        are none."""
        difference = np.asarray(self.chosen_lengths) - np.asarray(self.rejected_lengths)
        unequal = difference != 0
        if not unequal.any():
            return None
        longer = difference[unequal] > 0
        return share_interval(self.margins[unequal] * difference[unequal] > 0), share_interval(longer)

    def by_source(self) -> dict[str, tuple[int, Interval]]:
        """(comparisons, accuracy) of each source."""
        names = sorted({source for source in self.sources if source is not None})
        rows = {name: [i for i, source in enumerate(self.sources) if source == name] for name in names}
        return {name: (len(r), share_interval(self.correct[r])) for name, r in rows.items()}

    def headline(self) -> dict[str, float]:
        """The numbers to watch; empty without held-out comparisons."""
        if not self.chosen:
            return {}
        correlated = self.length_correlation
        return {
            "accuracy": self.accuracy.estimate,
            "calibration_error": self.calibration_error,
            **({} if correlated is None else {"length_correlation": correlated}),
        }

    def as_dict(self) -> dict:
        if not self.chosen:
            return {"comparisons": 0}
        longer = self.prefers_longer()
        return {
            "comparisons": len(self.chosen),
            **self.headline(),
            "length_correlation": self.length_correlation,
            "accuracy_interval": self.accuracy._asdict(),
            "by_confidence": [
                dict(zip(("share", "confidence", "accuracy"), row))
                for row in reliability(self.confidences, self.correct)
            ],
            "by_source": {
                name: {"comparisons": count, "accuracy": accuracy.estimate}
                for name, (count, accuracy) in self.by_source().items()
            },
            "prefers_longer": longer and {"model": longer[0].estimate, "human": longer[1].estimate},
        }


def write_report(report: RewardReport, folder: Path) -> None:
    """Write report.md, and reward_report.png with calibration, scores, and score by length."""
    if not report.chosen:
        write_text(folder / "report.md", "# Reward model\n\nNo comparisons were held out, so nothing was measured.\n")
        return
    longer = report.prefers_longer()
    lines = [
        "# Reward model",
        "",
        f"On {len(report.chosen)} held-out comparisons, with 95% intervals over them:",
        "",
        f"* accuracy {report.accuracy}",
        f"* expected calibration error {report.calibration_error:.3f} (10 bins of confidence)",
        f"* correlation of score and length {_correlation(report)}",
        *([f"* preference for the longer side {longer[0]}, of the people {longer[1]}"] if longer else []),
        "",
        "![Calibration, scores, and score by length](reward_report.png)",
        "",
        "| confidence | share of comparisons | accuracy |",
        "|---|---|---|",
        *[
            f"| {confidence:.2f} | {share:.0%} | {accuracy:.2f} |"
            for share, confidence, accuracy in reliability(report.confidences, report.correct)
        ],
    ]
    if report.by_source():
        lines += ["", "| source | comparisons | accuracy |", "|---|---|---|"]
        lines += [
            f"| {name.replace('|', ' ')} | {count} | {accuracy} |"
            for name, (count, accuracy) in report.by_source().items()
        ]
    write_text(folder / "report.md", "\n".join(lines) + "\n")
    draw_report(report, folder / "reward_report.png")


def draw_report(report: RewardReport, file: Path) -> None:
    """Three panels: accuracy by confidence, the scores of both sides, score by length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(12.6, 3.6), layout="constrained")
    bins = reliability(report.confidences, report.correct)
    left.plot([0.5, 1], [0.5, 1], color="#999999", linewidth=1, linestyle="--", label="perfect")
    left.plot([c for _, c, _ in bins], [a for _, _, a in bins], color="#1f6feb", linewidth=1)
    left.scatter(
        [c for _, c, _ in bins],
        [a for _, _, a in bins],
        s=[20 + 400 * share for share, _, _ in bins],
        color="#1f6feb",
        alpha=0.7,
    )
    left.set(
        title=f"calibration (error {report.calibration_error:.3f})",
        xlabel="confidence (dot: share of comparisons)",
        ylabel="accuracy",
    )
    edges = np.histogram_bin_edges(report.chosen + report.rejected, bins=30)
    middle.hist(report.rejected, edges, alpha=0.6, color="#d1495b", label="rejected")
    middle.hist(report.chosen, edges, alpha=0.6, color="#1f6feb", label="chosen")
    middle.set(title=f"scores (accuracy {report.accuracy.estimate:.3f})", xlabel="score", ylabel="completions")
    middle.legend()
    right.scatter(report.rejected_lengths, report.rejected, s=6, alpha=0.5, color="#d1495b", label="rejected")
    right.scatter(report.chosen_lengths, report.chosen, s=6, alpha=0.5, color="#1f6feb", label="chosen")
    right.set(
        title=f"score by length (correlation {_correlation(report)})",
        xlabel="tokens of the completion",
        ylabel="score",
    )
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
    write_picture(figure, file)


def _correlation(report: RewardReport) -> str:
    return "–" if report.length_correlation is None else f"{report.length_correlation:+.2f}"
