"""How often a training pass makes the host wait for the device."""

import pytest
import torch

from ppo_lm.config import PPOConfig
from ppo_lm.ops import masked_mean
from ppo_lm.ppo_trainer.model_trainer import ModelTrainer
from ppo_lm.types import SAPairs
from tests.conftest import make_pairs
from tests.device.conftest import make_policy
from tests.device.sync_counter import SyncCounter

PER_MICRO_BATCH = 4
"""Real tokens, tokens whose hidden states are wanted, tokens whose logits are, and `sampler_gap`. Each one delays all
launches behind it: do not raise this number without need."""


@pytest.mark.parametrize("kept", [None, 4], ids=["whole vocabulary", "top-k"])
def test_a_micro_batch_of_the_policy_waits_a_few_times(device, kept):
    pairs = make_pairs(rows=8, dtype=torch.float32)
    columns = {name: column.to(device) for name, column in pairs.columns().items()}
    pairs = SAPairs(**columns, sampler_logprobs=columns["old_logprobs"])
    if kept:
        pairs = pairs.with_columns(support_ids=pairs.action_ids[:, :, None].expand(-1, -1, kept).contiguous())
    policy, counts = make_policy(device), []
    for tokens in (10_000, 1):  # one micro-batch, and one for each row
        config = PPOConfig(ppo_epochs=1, micro_batch_tokens=tokens, lr_schedule="constant")
        with SyncCounter() as syncs:
            ModelTrainer(policy, None, config).train_policy_model(pairs)
        counts.append(syncs.total)
    assert (counts[1] - counts[0]) / (pairs.sequences - 1) <= PER_MICRO_BATCH, f"\n{syncs}"


WAITS = {
    "a value": lambda x: float(x[0]),
    "values": lambda x: sum(x.tolist()),
    "a list as index": lambda x: x[[0]],
    "a mask as index": lambda x: x[x > 0].sum(),
    "a mask to write at": lambda x: x.clone().index_put_((x > 0,), x[0]),
    "places": lambda x: x.nonzero().sum(),
    "a list": lambda x: torch.tensor([1.0, 2.0, 3.0], device=x.device),
    "lengths": lambda x: x.repeat_interleave(x.long()).sum(),
}
NO_WAITS = {"arithmetic": lambda x: torch.where(x > 0, x, 0.0), "ids as index": lambda x: x[x.long()]}


@pytest.mark.parametrize("name", [*WAITS, *NO_WAITS])
def test_the_counter_counts_values_lists_and_shapes(device, name, monkeypatch):
    """In code of the package only; here, a function of it that calls back."""
    monkeypatch.setattr("ppo_lm.ops.masked.masked_sum", lambda values, mask: (WAITS | NO_WAITS)[name](values))
    numbers = torch.ones(3, device=device)
    with SyncCounter() as syncs:
        masked_mean(numbers, numbers > 0)
        numbers.tolist()
    assert syncs.total == (name in WAITS), f"\n{syncs}"
