"""The numbers of the reports against independent computations."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from ppo_lm.evaluation import rouge
from ppo_lm.evaluation.statistics import (
    bootstrap_mean,
    calibration_error,
    correlation,
    distinct_n,
    length_controlled_win_rate,
    outcomes,
    reliability,
    win_rate,
)

pytestmark = pytest.mark.fast


def test_rouge_by_hand():
    # the cat . on . mat: 4 of 6 words on both sides; 1 of 5 word pairs ("the cat"); the longest common subsequence has
    # 4 words
    found = rouge(["the cat sat on the mat"], ["the cat was on a mat"])
    assert found == {"rouge1": pytest.approx(2 / 3), "rouge2": pytest.approx(1 / 5), "rougeL": pytest.approx(2 / 3)}
    # 2 of 3 words of the completion, 2 of 5 of the reference: F = 2·(2/3)(2/5)/(2/3 + 2/5) = 1/2; in order only "b" or
    # "a": 1/3, 1/5 → 1/4
    assert rouge(["b a x"], ["a y z w b"])["rouge1"] == pytest.approx(1 / 2)
    assert rouge(["b a x"], ["a y z w b"])["rougeL"] == pytest.approx(1 / 4)
    both = rouge(["the cat sat on the mat", "b a x"], ["the cat was on a mat", "a y z w b"])
    assert both["rouge1"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_calibration_error_by_hand_and_by_torchmetrics():
    # bin [0.5, 0.55): one, right; bin [0.9, 0.95): two, one of them right
    assert calibration_error([0.52, 0.91, 0.93], [1, 1, 0]) == pytest.approx(1 / 3 * 0.48 + 2 / 3 * (0.92 - 0.5))
    assert reliability([0.52, 0.91, 0.93], [1, 1, 0]) == [
        (pytest.approx(1 / 3), 0.52, 1.0),
        (pytest.approx(2 / 3), pytest.approx(0.92), 0.5),
    ]
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.5, 1, 500)
    correct = rng.uniform(size=500) < confidences**2
    theirs = binary_calibration_error(torch.tensor(confidences), torch.tensor(correct).long(), n_bins=20, norm="l1")
    assert calibration_error(confidences, correct) == pytest.approx(float(theirs), abs=1e-6)
    assert calibration_error([1.0, 1.0], [1, 1]) == 0.0


def test_the_bootstrap_against_the_binomial_distribution():
    """The sum of ten draws from five ones and five zeros is at most 1 in 1.1% of cases, and at most 2 in 5.5%."""
    values = [1.0, 0.0] * 5
    assert [bootstrap_mean(values, seed) for seed in range(3)] == [(0.5, 0.2, 0.8)] * 3
    skewed = [0.0, 0.0, 0.0, 10.0]  # no ten with 0.75⁴ = 32%; three or more with 5.1%, and four with 0.4%
    assert bootstrap_mean(skewed) == (2.5, 0.0, 7.5)
    assert bootstrap_mean([2.0] * 5) == (2.0, 2.0, 2.0)


def test_win_rate_counts_ties_half():
    assert outcomes([1, 2, 3, 4], [0, 2, 5, 1]).tolist() == [1, 0.5, 0, 1]
    assert win_rate([1, 2, 3, 4], [0, 2, 5, 1]).estimate == 0.625


def test_the_length_controlled_win_rate_against_a_fit_by_gradient_descent():
    rng = np.random.default_rng(1)
    lengths, base_lengths = rng.integers(5, 40, 80), rng.integers(5, 40, 80)
    difference = lengths - base_lengths
    scores = rng.uniform(size=80) < 1 / (1 + np.exp(-(0.4 + 0.08 * difference)))
    found = length_controlled_win_rate(scores.astype(float), np.full(80, 0.5), lengths, base_lengths)
    d = torch.tensor(np.append(np.tanh(difference / difference.std()), [0, 0]), dtype=torch.float64)
    wins = torch.tensor(np.append(scores, [1.0, 0.0]), dtype=torch.float64)
    weights = torch.ones(82, dtype=torch.float64)
    weights[-2:] = 0.5
    fit = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([fit], max_iter=500, tolerance_grad=1e-12)

    def loss():
        optimiser.zero_grad()
        nll = (
            torch.nn.functional.binary_cross_entropy_with_logits(fit[0] + fit[1] * d, wins, weights, reduction="sum")
            + 0.05 * fit[1] ** 2
        )
        nll.backward()
        return nll

    optimiser.step(loss)
    assert found.estimate == pytest.approx(float(torch.sigmoid(fit[0].detach())), abs=1e-6)
    assert found.low < found.estimate < found.high


def test_wins_that_length_explains_count_for_nothing_at_equal_length():
    lengths, base = [30] * 40 + [10] * 40, [10] * 40 + [30] * 40
    longer_wins = length_controlled_win_rate([1.0] * 40 + [0.0] * 40, [0.0] * 40 + [1.0] * 40, lengths, base)
    assert longer_wins.estimate == pytest.approx(0.5, abs=1e-6)
    every = length_controlled_win_rate([1.0] * 30, [0.0] * 30, [10] * 30, [10] * 30)
    assert every.estimate == pytest.approx(30.5 / 31, abs=1e-6)  # half a loss is added to 30.5 wins


def test_distinct_n_and_correlation_by_hand():
    assert distinct_n(["a b a b", "a b"], 1) == 2 / 6
    assert distinct_n(["a b a b", "a b"], 2) == 2 / 4
    assert distinct_n(["a"], 2) == 0.0
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert correlation([1, 2, 3], [5, 5, 5]) == 0.0
