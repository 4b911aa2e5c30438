import pytest
import torch

from ppo_lm.base_setup import make_lora_config
from ppo_lm.models import PolicyModel
from ppo_lm.sft import Demonstration, completion_loss, train_sft
from tests.conftest import make_base

DEMONSTRATIONS = [Demonstration([5, 6, 7, 8], [9, 10, 1]), Demonstration([5], [11, 12, 13, 14, 1]), Demonstration([8, 8, 8, 8, 8, 8, 8], [1])]


def test_the_loss_is_the_mean_over_completion_tokens_only():
    base = make_base()
    total, tokens = 0.0, 0
    for d in DEMONSTRATIONS:  # each row alone, through transformers' own loss
        ids = torch.tensor([d.prompt_ids + d.completion_ids])
        labels = torch.tensor([[-100] * len(d.prompt_ids) + d.completion_ids])
        total += base.network(input_ids=ids, labels=labels).loss.item() * len(d.completion_ids)
        tokens += len(d.completion_ids)
    assert completion_loss(PolicyModel(base, None), DEMONSTRATIONS).item() == pytest.approx(total / tokens, abs=1e-5)


def test_training_lowers_the_loss_and_moves_the_adapter_only():
    base = make_base()
    base.add_adapter("policy", make_lora_config(8, 16, 0.0))
    policy = PolicyModel(base)
    frozen = {name: p.detach().clone() for name, p in base.network.named_parameters() if "lora_" not in name}
    before = completion_loss(policy, DEMONSTRATIONS).item()
    seen = []
    train_sft(policy, DEMONSTRATIONS, learning_rate=1e-2, epochs=20, batch_size=2, log=lambda step, total, loss: seen.append((step, total)))
    assert completion_loss(policy, DEMONSTRATIONS).item() < 0.5 * before
    assert seen[-1] == (40, 40)
    assert all(torch.equal(p, frozen[name]) for name, p in base.network.named_parameters() if name in frozen)
