"""The heads of reward and value model, and what they start from."""

import pytest
import torch

from ppo_lm.base_setup import EMBEDDED_MODEL, load_base, load_reward_model, set_up_roles
from ppo_lm.models.score_head import ScoreHead
from tests.conftest import make_base, make_pairs

pytestmark = pytest.mark.fast


def test_a_head_starts_from_a_normal_distribution_of_its_width_and_no_bias():
    torch.manual_seed(0)
    head = ScoreHead(9_999)
    assert head.linear.weight.std().item() == pytest.approx(0.01, rel=9e-3)
    assert head.linear.weight.mean().item() == pytest.approx(0.0, abs=4e-4)
    assert head.linear.bias.item() == 0.0


@pytest.mark.parametrize("shared_trunk", [False, True])
def test_without_a_reward_model_the_value_model_starts_from_0(shared_trunk):
    roles = set_up_roles(
        make_base(), lora_r=4, lora_alpha=8, lora_dropout=0.0, lora_targets="all-linear", shared_trunk=shared_trunk
    )
    pairs = make_pairs(dtype=torch.float32)
    assert torch.equal(roles.value.values(pairs), torch.zeros(pairs.action_ids.shape))


def test_the_value_model_starts_from_the_reward_model():
    """On every prefix it gives the normalised score that the reward model gives a text that ends there."""
    base = load_base("embedded", "float32", "cpu")
    roles = set_up_roles(
        base,
        lora_r=4,
        lora_alpha=8,
        lora_dropout=0.0,
        lora_targets="all-linear",
        load_rewards=lambda base: [load_reward_model(base, EMBEDDED_MODEL / "reward")],
    )
    pairs = make_pairs(dtype=torch.float32, vocabulary=500)
    values = roles.value.values(pairs)
    first = pairs.input_ids.shape[1] - pairs.action_ids.shape[1]
    for row, length in enumerate(pairs.lengths.tolist()):
        for step in range(length):
            ids = pairs.input_ids[row : row + 1, : first + step]
            score = roles.rewards[0].scores(ids, pairs.attention_mask[row : row + 1, : first + step])
            assert values[row, step].item() == pytest.approx(score.item(), abs=1e-4)
