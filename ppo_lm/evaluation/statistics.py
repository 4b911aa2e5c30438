"""The statistics of reports: calibration, diversity, correlation. All pure, on NumPy arrays of float64."""

from __future__ import annotations

import numpy as np


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
