import pytest
import torch

from ppo_lm.base_setup import load_reward_model, make_lora_config, set_up_roles
from ppo_lm.models import RewardModel
from tests.conftest import make_base, make_pairs

pytestmark = pytest.mark.fast

LORA = dict(lora_r=4, lora_alpha=8, lora_dropout=0.1, lora_targets="all-linear")


def roles_and_pairs(dtype=torch.float32, **settings):
    base = make_base(dtype)
    roles = set_up_roles(base, **{**LORA, **settings})
    shake(roles.value.head.parameters())  # from V = 0 nothing would be seen
    return base, roles, make_pairs(dtype=torch.float32)


def shake(parameters):
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter) * 0.1)


def test_a_fresh_policy_is_the_reference_bit_for_bit():
    _, roles, pairs = roles_and_pairs()
    assert torch.equal(roles.policy.action_logprobs(pairs), roles.sft.action_logprobs(pairs))


@pytest.mark.parametrize("lora_r", [4, 0])
def test_training_one_role_moves_no_other(lora_r):
    _, roles, pairs = roles_and_pairs(lora_r=lora_r)
    before = {
        "sft": roles.sft.action_logprobs(pairs),
        "value": roles.value.values(pairs).detach(),
        "policy": roles.policy.action_logprobs(pairs).detach(),
    }
    shake(roles.policy.parameters())
    assert torch.equal(roles.sft.action_logprobs(pairs), before["sft"])
    assert torch.equal(roles.value.values(pairs), before["value"])
    assert not torch.allclose(roles.policy.action_logprobs(pairs), before["policy"])
    moved = roles.policy.action_logprobs(pairs).detach()
    shake(roles.value.parameters())
    assert torch.equal(roles.policy.action_logprobs(pairs), moved)
    assert not torch.allclose(roles.value.values(pairs), before["value"])


@pytest.mark.parametrize("lora_r", [4, 0])
def test_gradients_reach_their_own_role_only(lora_r):
    base, roles, pairs = roles_and_pairs(lora_r=lora_r)
    roles.policy.action_logprobs(pairs).sum().backward()
    policy = {id(p) for p in roles.policy.parameters()}
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in roles.policy.parameters())
    assert all(p.grad is None for p in roles.value.parameters() if id(p) not in policy)
    if lora_r:
        assert all(p.grad is None for name, p in base.network.named_parameters() if "lora_" not in name)


def test_only_adapters_and_heads_can_be_trained():
    base, roles, _ = roles_and_pairs()
    trainable = {name for name, parameter in base.network.named_parameters() if parameter.requires_grad}
    assert trainable and all(".policy." in name or ".value." in name for name in trainable)
    assert len(roles.policy.parameters()) == sum(".policy." in name for name in trainable)


def test_dropout_is_off_although_lora_dropout_is_set():
    _, roles, pairs = roles_and_pairs(lora_dropout=0.5)
    shake(roles.policy.parameters())
    assert torch.equal(roles.policy.action_logprobs(pairs), roles.policy.action_logprobs(pairs))


def test_values_and_log_probabilities_are_fp32_on_a_bf16_base_and_0_in_padding():
    _, roles, pairs = roles_and_pairs(dtype=torch.bfloat16)
    for numbers in (roles.policy.action_logprobs(pairs), roles.value.values(pairs)):
        assert numbers.dtype == torch.float32
        assert torch.all(numbers[~pairs.action_mask] == 0)


def test_the_value_reads_the_state_before_the_action():
    _, roles, pairs = roles_and_pairs()
    values = roles.value.values(pairs).detach()
    row, last = 0, int(pairs.lengths[0]) - 1
    ids = pairs.input_ids.clone()
    ids[row, -1] = 7 if int(ids[row, -1]) != 7 else 8  # row 0 fills the width: its last column is its last action
    changed = roles.value.values(pairs.with_columns(input_ids=ids, action_ids=ids[:, -7:]))
    assert torch.equal(changed[row, : last + 1], values[row, : last + 1])


def reward_model(tmp_path):
    base = make_base()
    base.add_adapter("reward", make_lora_config(4, 8, 0.0))
    model = RewardModel(base)
    shake(model.parameters())
    model.mean, model.std = 0.5, 2.0
    model.save(tmp_path)
    return model


def test_the_reward_is_read_at_the_last_real_token_whatever_the_padding(tmp_path):
    model = reward_model(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    plain = model.scores(ids, torch.ones(1, 3, dtype=torch.bool))
    for left, right in ((0, 4), (3, 0), (2, 2)):
        padded = torch.nn.functional.pad(ids, (left, right))
        mask = torch.nn.functional.pad(torch.ones(1, 3), (left, right)).bool()
        torch.testing.assert_close(model.scores(padded, mask), plain, rtol=0, atol=1e-6)
    longer = model.scores(torch.tensor([[5, 6, 7, 9]]), torch.ones(1, 4, dtype=torch.bool))
    assert not torch.allclose(longer, plain)


@pytest.mark.parametrize("lora_r", [4, 0])
def test_a_saved_reward_model_scores_the_same_and_the_value_starts_from_it(tmp_path, lora_r):
    model = reward_model(tmp_path)
    base = make_base()
    roles = set_up_roles(
        base, **{**LORA, "lora_r": lora_r}, load_rewards=lambda base: [load_reward_model(base, tmp_path)]
    )
    pairs = make_pairs(dtype=torch.float32)
    scores = roles.rewards[0].scores(pairs.input_ids, pairs.attention_mask)
    torch.testing.assert_close(scores, model.scores(pairs.input_ids, pairs.attention_mask), rtol=0, atol=1e-6)
    # V before the last action reads one token less than the reward model does
    shorter = pairs.attention_mask.clone()
    ends = shorter.shape[1] - pairs.action_ids.shape[1] + pairs.lengths - 1
    shorter[torch.arange(pairs.sequences), ends] = False
    expected = roles.rewards[0].scores(pairs.input_ids, shorter)
    before_last = roles.value.values(pairs)[torch.arange(pairs.sequences), pairs.lengths - 1]
    torch.testing.assert_close(before_last, expected, rtol=0, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in roles.rewards[0].parameters())


def test_an_unknown_role_is_refused():
    base, _, _ = roles_and_pairs()
    with pytest.raises(KeyError, match="no adapter called 'critic'"), base.role("critic"):
        pass
