"""A sketch of weights says how far two networks are apart, whatever they were rounded to."""

import math

import pytest
import torch

from ppo_lm.fingerprint import sketch_distance, sketch_weights


def weights(change=lambda weight: weight):
    generator = torch.Generator().manual_seed(0)
    shapes = [(300, 40), (40, 300), (7,), (1500, 1000)] * 20
    return [(str(n), change(torch.randn(shape, generator=generator) * 0.02)) for n, shape in enumerate(shapes)]


def distance(change) -> float:
    return sketch_distance(sketch_weights(weights()), sketch_weights(weights(change)))


@pytest.mark.fast
def test_the_distance_is_about_that_of_the_weights():
    noise = torch.Generator().manual_seed(1)
    for size in (0.003, 0.03, 0.3):
        found = distance(lambda w, size=size: w + size * 0.02 * torch.randn(w.shape, generator=noise))
        assert found == pytest.approx(size / math.sqrt(1 + size**2 / 2), rel=0.5)
    assert distance(lambda w: torch.randn(w.shape, generator=noise) * 0.02) == pytest.approx(math.sqrt(2), rel=0.4)


def test_rounding_hardly_counts():
    assert distance(lambda w: w) == 0
    assert distance(lambda w: w.bfloat16()) == 0
    assert distance(lambda w: w.half()) < 3e-3
    assert distance(lambda w: torch.nextafter(w, torch.full_like(w, 9.0))) < 1e-4


def test_another_order_counts():
    assert distance(lambda w: w.flip(0)) > 0.5
    assert sketch_distance(sketch_weights(weights()), sketch_weights(weights()[::-1])) > 0.5


def test_sketches_of_another_length_cannot_be_compared():
    assert sketch_distance([0.1], [0.1, 0.2]) == math.inf
