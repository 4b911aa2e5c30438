"""Intervals against independent computations, and how often they cover the truth."""

import math

import numpy as np
import pytest
import torch

from ppo_lm.evaluation.intervals import (
    length_controlled_win_rate,
    mean_interval,
    note_on_few,
    outcomes,
    share_interval,
    win_rate,
)

pytestmark = pytest.mark.fast

COVERED = 0.93


def at_least(wins, count, p):
    """The probability of this many wins or more."""
    return sum(math.comb(count, k) * p**k * (1 - p) ** (count - k) for k in range(wins, count + 1))


@pytest.mark.parametrize(("wins", "count"), [(6, 6), (3, 6), (1, 12), (70, 100)])
def test_the_interval_of_a_share_against_the_binomial_distribution(wins, count):
    found = share_interval([1.0] * wins + [0.0] * (count - wins))
    assert found.estimate == wins / count
    assert at_least(wins, count, found.low) == pytest.approx(0.025, abs=1e-4)
    assert (
        found.high == 1.0
        if wins == count
        else 1 - at_least(wins + 1, count, found.high) == pytest.approx(0.025, abs=1e-4)
    )


def test_the_interval_of_a_mean_against_a_table_of_students_t():
    assert mean_interval([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(
        (2.5, 2.5 - 2.5706 * 0.76376, 2.5 + 2.5706 * 0.76376), abs=1e-3
    )
    assert mean_interval([2.0] * 5) == (2.0, 2.0, 2.0)
    one = mean_interval([2.0])
    assert one.estimate == 2.0 and math.isnan(one.low) and str(one) == "2.000"


def test_win_rate_counts_ties_half():
    assert outcomes([1, 2, 3, 4], [0, 2, 5, 1]).tolist() == [1, 0.5, 0, 1]
    assert win_rate([1, 2, 3, 4], [0, 2, 5, 1]).estimate == 0.625


@pytest.mark.parametrize("count", [6, 12, 30, 100])
def test_means_and_win_rates_are_covered(count):
    rng = np.random.default_rng(count)
    means = [mean_interval(rng.normal(size=count)) for _ in range(2000)]
    assert np.mean([found.low <= 0 <= found.high for found in means]) >= COVERED
    intervals = [share_interval([1.0] * wins + [0.0] * (count - wins)) for wins in range(count + 1)]
    for p in np.linspace(0.01, 0.99, 99):  # exactly, not by simulation
        chance = [math.comb(count, wins) * p**wins * (1 - p) ** (count - wins) for wins in range(count + 1)]
        assert sum(c for c, found in zip(chance, intervals) if found.low <= p <= found.high) >= 0.95
    ties = rng.choice([0.0, 0.5, 1.0], p=[0.1, 0.6, 0.3], size=(400, count))
    assert np.mean([found.low <= 0.6 <= found.high for found in map(share_interval, ties)]) >= COVERED


@pytest.mark.parametrize(("count", "draws"), [(6, 300), (12, 300), (30, 200), (100, 100)])
def test_the_length_controlled_win_rate_is_covered(count, draws):
    """Whatever the win rate at equal length is, from even to 0.98, and whether or not length matters."""
    rng, hits = np.random.default_rng(count), []
    for draw in range(draws):
        at_equal_length = float(draw % 5)  # log-odds
        length, slope = rng.normal(size=count), 2.0 * (draw % 2)
        wins = rng.uniform(size=count) < sigmoid(at_equal_length + slope * np.tanh(length / length.std()))
        found = length_controlled_win_rate(wins.astype(float), np.full(count, 0.5), length, np.zeros(count))
        hits.append(found.low <= sigmoid(at_equal_length) <= found.high)
    assert np.mean(hits) >= COVERED


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_six_prompts_leave_a_wide_interval_at_equal_length_too():
    """A bootstrap of the fit gives 0.862 [0.683, 0.928] for these five wins and a tie."""
    found = length_controlled_win_rate([1, 1, 1, 1, 1, 0.5], [0.5] * 6, [9, 12, 10, 14, 9, 11], [10] * 6)
    assert found.low < 0.6 and found.high > 0.97
    assert note_on_few(6) == [
        "6 prompts are too few for a judgement: the interval of an even win rate is 0.12 to 0.88; give 30 or more"
    ]
    assert note_on_few(30) == []


def test_the_length_controlled_win_rate_against_a_fit_by_gradient_descent():
    rng = np.random.default_rng(1)
    lengths, base_lengths = rng.integers(5, 40, 80), rng.integers(5, 40, 80)
    difference = lengths - base_lengths
    wins = (rng.uniform(size=80) < sigmoid(0.4 + 0.08 * difference)).astype(float)
    found = length_controlled_win_rate(wins, np.full(80, 0.5), lengths, base_lengths)
    design = torch.stack([torch.ones(80), torch.tensor(np.tanh(difference / difference.std()))], dim=1).double()

    def fit(fixed=None):
        """(log-odds at equal length, penalised log-likelihood) of the best fit, with the log-odds `fixed`, if given."""
        weights = torch.tensor([fixed or 0.0, 0.0], dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-12)

        def loss():
            optimiser.zero_grad()
            p = torch.sigmoid(design @ weights)
            nll = torch.nn.functional.binary_cross_entropy(p, torch.tensor(wins), reduction="sum")
            nll = nll - 0.5 * torch.logdet(design.T @ (design * (p * (1 - p))[:, None]))
            nll.backward()
            if fixed is not None:
                weights.grad[0] = 0
            return nll

        for _ in range(20):
            optimiser.step(loss)
        return float(weights[0].detach()), -float(loss().detach())

    best, likelihood = fit()
    assert found.estimate == pytest.approx(sigmoid(best), abs=1e-4)
    for bound in (found.low, found.high):
        assert 2 * (likelihood - fit(math.log(bound / (1 - bound)))[1]) == pytest.approx(3.8415, abs=0.02)


def test_wins_that_length_explains_count_for_nothing_at_equal_length():
    lengths, base = [30] * 40 + [10] * 40, [10] * 40 + [30] * 40
    longer_wins = length_controlled_win_rate([1.0] * 40 + [0.0] * 40, [0.0] * 40 + [1.0] * 40, lengths, base)
    assert longer_wins.estimate == pytest.approx(0.5, abs=1e-6)
    every = length_controlled_win_rate([1.0] * 30, [0.0] * 30, [10] * 30, [10] * 30)
    assert every.estimate == pytest.approx(30.5 / 31, abs=1e-4)  # the penalty adds half a win and half a loss
