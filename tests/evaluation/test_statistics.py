"""The numbers of the reports against independent computations."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from ppo_lm.evaluation import rouge
from ppo_lm.evaluation.statistics import calibration_error, correlation, distinct_n, reliability

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


def test_distinct_n_and_correlation_by_hand():
    assert distinct_n(["a b a b", "a b"], 1) == 2 / 6
    assert distinct_n(["a b a b", "a b"], 2) == 2 / 4
    assert distinct_n(["a"], 2) == 0.0
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert correlation([1, 2, 3], [5, 5, 5]) == 0.0
