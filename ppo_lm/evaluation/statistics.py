"""The statistics of reports: intervals, win rates, calibration. All pure, on NumPy arrays of float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DRAWS = 10_000


class Interval(NamedTuple):
    """An estimate with its central 95% interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_mean(values, seed: int = 0, draws: int = DRAWS) -> Interval:
    """The mean of `values` (N,) with its percentile interval over `draws` bootstrap resamples (Efron & Tibshirani,
    1993). Given differences or outcomes of pairs, this is a paired bootstrap."""
    values = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(draws)]
    return Interval(float(values.mean()), *_middle(np.array(means)))


def outcomes(scores, baseline_scores) -> np.ndarray:
    """1 where `scores` beats `baseline_scores`, 0.5 for a tie, 0 for a loss; (N,)."""
    difference = np.asarray(scores, dtype=np.float64) - np.asarray(baseline_scores, dtype=np.float64)
    return (np.sign(difference) + 1) / 2


def win_rate(scores, baseline_scores, seed: int = 0) -> Interval:
    """The share of prompts won against the baseline, ties counting half, with a paired bootstrap interval over
    prompts."""
    return bootstrap_mean(outcomes(scores, baseline_scores), seed)


def length_controlled_win_rate(
    scores, baseline_scores, lengths, baseline_lengths, seed: int = 0, draws: int = 1000
) -> Interval:
    """The win rate at equal length: σ(a) of the logistic fit P(win) = σ(a + b·d), where d is the difference in length
    over its standard deviation, squashed by tanh; after "Length-controlled AlpacaEval" (2404.04475), without its
    per-prompt term."""
    wins = outcomes(scores, baseline_scores)
    difference = np.asarray(lengths, dtype=np.float64) - np.asarray(baseline_lengths, dtype=np.float64)
    spread = difference.std()
    squashed = np.tanh(difference / spread) if spread > 0 else difference * 0.0
    design = np.stack([np.ones_like(squashed), squashed], axis=1)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(wins), np.full(len(wins), 1 / len(wins)), size=draws)
    fits = [_sigmoid(_fit_logistic(design, wins, weights)[0]) for weights in counts]
    return Interval(float(_sigmoid(_fit_logistic(design, wins, np.ones(len(wins)))[0])), *_middle(np.array(fits)))


def calibration_error(confidences, correct, bins: int = 10, low: float = 0.5) -> float:
    """Expected calibration error (1706.04599): Σ over bins of n_b/N · |accuracy_b − mean confidence_b|, in `bins` equal
    bins of [low, 1]."""
    return sum(
        share * abs(accuracy - confidence)
        for share, confidence, accuracy in reliability(confidences, correct, bins, low)
    )


def reliability(confidences, correct, bins: int = 10, low: float = 0.5) -> list[tuple[float, float, float]]:
    """(share of the data, mean confidence, accuracy) of every non-empty bin of [low, 1]."""
    confidences, correct = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    place = np.clip(((confidences - low) / (1 - low) * bins).astype(int), 0, bins - 1)
    rows = [place == b for b in range(bins)]
    return [(float(r.mean()), float(confidences[r].mean()), float(correct[r].mean())) for r in rows if r.any()]


def distinct_n(texts, n: int) -> float:
    """Distinct word n-grams as a share of all word n-grams, over all texts together (1510.03055); 0 if there are
    none."""
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def correlation(one, other) -> float:
    """Pearson correlation; 0 if either is constant."""
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    return float(np.corrcoef(one, other)[0, 1]) if one.std() > 0 and other.std() > 0 else 0.0


def _middle(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _fit_logistic(
    design: np.ndarray, wins: np.ndarray, weights: np.ndarray, ridge: float = 0.1, steps: int = 25
) -> np.ndarray:
    """Weighted logistic regression by Newton's method. The small ridge on the slope keeps it finite when length
    separates wins from losses; the one half win and one half loss added at zero difference keep the intercept finite
    when every prompt is won."""
    design = np.vstack([design, [[1.0, 0.0], [1.0, 0.0]]])
    wins, weights = np.append(wins, [1.0, 0.0]), np.append(weights, [0.5, 0.5])
    penalty = np.array([0.0, ridge])
    coefficients = np.zeros(2)
    for _ in range(steps):
        p = _sigmoid(design @ coefficients)
        gradient = design.T @ (weights * (wins - p)) - penalty * coefficients
        hessian = (design.T * (weights * p * (1 - p))) @ design + np.diag(penalty) + 1e-12 * np.eye(2)
        change = np.linalg.solve(hessian, gradient)
        coefficients = coefficients + np.clip(change, -2, 2)
        if np.abs(change).max() < 1e-9:
            break
    return coefficients
