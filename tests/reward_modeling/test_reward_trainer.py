import math
import random

import pytest
import torch

from ppo_lm.base_setup import make_lora_config
from ppo_lm.models import RewardModel
from ppo_lm.optimisation import LoopSettings
from ppo_lm.reward_modeling import Comparison, normalise, score_all, train_reward_model
from ppo_lm.reward_modeling.reward_trainer import sum_preference_losses
from tests.conftest import make_base

pytestmark = pytest.mark.fast


def model():
    base = make_base()
    torch.manual_seed(0)
    base.add_adapter("reward", make_lora_config(8, 16, 0.0))
    return RewardModel(base)


def comparisons(count, seed=0):
    """The one with token 9 in it is preferred."""
    rng = random.Random(seed)
    draw = lambda: [rng.randint(20, 60) for _ in range(rng.randint(2, 8))]  # noqa: E731
    return [Comparison([*draw(), 9, 1], [*draw(), 10, 1]) for _ in range(count)]


def accuracy(reward, pairs):
    chosen, rejected = (
        score_all(reward, [p.chosen_ids for p in pairs]),
        score_all(reward, [p.rejected_ids for p in pairs]),
    )
    return float((chosen > rejected).float().mean())


def test_the_loss_is_bradley_terry_by_hand():
    reward, batch = model(), comparisons(5)
    losses = []
    for pair in batch:  # each sequence alone, unpadded
        chosen, rejected = (
            reward.scores(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool)).item()
            for ids in (pair.chosen_ids, pair.rejected_ids)
        )
        losses.append(math.log(1 + math.exp(rejected - chosen)))
    assert sum_preference_losses(reward, batch).item() == pytest.approx(sum(losses), abs=1e-5)


def test_training_learns_what_is_preferred_on_pairs_it_never_saw():
    reward = model()
    held_out = comparisons(50, seed=1)
    assert accuracy(reward, held_out) < 0.9
    train_reward_model(reward, comparisons(100), LoopSettings(learning_rate=1e-2, epochs=4, batch_size=10))
    assert accuracy(reward, held_out) > 0.95


def test_normalised_scores_have_mean_0_and_deviation_1_in_the_order_given():
    reward = model()
    sequences = [pair.chosen_ids for pair in comparisons(30)]
    raw = score_all(reward, sequences, batch_size=7)
    normalise(reward, sequences)
    scores = score_all(reward, sequences, batch_size=4)
    torch.testing.assert_close(scores, (raw - raw.mean()) / raw.std(), rtol=0, atol=1e-5)
