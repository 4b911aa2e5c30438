import pytest
import torch

from ppo_lm.base_setup import make_lora_config
from ppo_lm.data.encoded import EncodedDemonstration
from ppo_lm.models import PolicyModel
from ppo_lm.optimisation.supervised_loop import Counter, LoopSettings
from ppo_lm.sft import completion_loss, train_sft
from tests.conftest import make_base

pytestmark = pytest.mark.fast

DEMONSTRATIONS = [
    EncodedDemonstration([5, 6, 7, 8], [9, 10, 1]),
    EncodedDemonstration([5], [11, 12, 13, 14, 1]),
    EncodedDemonstration([8, 8, 8, 8, 8, 8, 8], [1]),
]


def test_the_loss_is_the_mean_over_completion_tokens_only():
    base = make_base()
    total, tokens = 0.0, 0
    for d in DEMONSTRATIONS:  # each row alone, through transformers' own loss
        ids = torch.tensor([d.prompt_ids + d.completion_ids])
        labels = torch.tensor([[-100] * len(d.prompt_ids) + d.completion_ids])
        total += base.network(input_ids=ids, labels=labels).loss.item() * len(d.completion_ids)
        tokens += len(d.completion_ids)
    assert completion_loss(PolicyModel(base, None), DEMONSTRATIONS, batch_size=2) == pytest.approx(
        total / tokens, abs=1e-5
    )


class Remembers(Counter):
    """Keeps what a loop records."""

    def __init__(self, total):
        super().__init__(total)
        self.seen = []

    def record_step(self, step, metrics):
        self.seen.append((step, metrics))


def test_training_lowers_the_loss_and_moves_the_adapter_only():
    base = make_base()
    base.add_adapter("policy", make_lora_config(8, 16, 0.0))
    policy = PolicyModel(base)
    frozen = {name: p.detach().clone() for name, p in base.network.named_parameters() if "lora_" not in name}
    before = completion_loss(policy, DEMONSTRATIONS)
    progress = Remembers(40)
    train_sft(
        policy,
        DEMONSTRATIONS,
        LoopSettings(learning_rate=1e-2, epochs=20, batch_size=2),
        progress=progress,
    )
    assert completion_loss(policy, DEMONSTRATIONS) < 0.5 * before
    assert [step for step, _ in progress.seen] == list(range(1, 41))
    assert all(torch.equal(p, frozen[name]) for name, p in base.network.named_parameters() if name in frozen)


def adapter_after(micro_batch_size, dropout=0.0, max_steps=0):
    base = make_base()
    torch.manual_seed(1)
    base.add_adapter("policy", make_lora_config(8, 16, dropout))
    policy, progress = PolicyModel(base), Remembers(max_steps or 3)
    train_sft(
        policy,
        DEMONSTRATIONS,
        LoopSettings(
            learning_rate=1e-2, epochs=3, batch_size=3, micro_batch_size=micro_batch_size, max_steps=max_steps
        ),
        progress=progress,
    )
    return [p.detach().clone() for p in policy.parameters()], [row["learning_rate"] for _, row in progress.seen]


def test_micro_batches_change_nothing():
    for whole, split in zip(adapter_after(3)[0], adapter_after(1)[0]):
        torch.testing.assert_close(whole, split, rtol=0, atol=1e-4)  # a step moves a weight by up to 1e-2


def test_dropout_is_on_in_training_and_off_afterwards():
    base = make_base()
    base.add_adapter("policy", make_lora_config(8, 16, 0.5))
    train_sft(PolicyModel(base), DEMONSTRATIONS, LoopSettings(learning_rate=1e-2, epochs=2, batch_size=3))
    assert not base.network.training
    assert completion_loss(PolicyModel(base), DEMONSTRATIONS) == completion_loss(PolicyModel(base), DEMONSTRATIONS)
    assert any(not torch.equal(a, b) for a, b in zip(adapter_after(3, dropout=0.5)[0], adapter_after(3)[0]))


def test_max_steps_ends_the_run_and_its_schedule():
    rates = adapter_after(3, max_steps=2)[1]
    assert len(rates) == 2
    assert rates[-1] < rates[0]
