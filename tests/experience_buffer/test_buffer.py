import pytest
import torch

from ppo_lm.experience_buffer import (
    ExperienceBuffer,
    MemoryBudget,
    compute_in_micro_batches,
    micro_batches,
    trim_padding,
)
from tests.conftest import make_pairs

pytestmark = pytest.mark.fast


def real_tokens(pairs):
    return sorted(tuple(ids[mask].tolist()) for ids, mask in zip(pairs.input_ids, pairs.attention_mask))


def test_every_sequence_once_a_pass_and_a_new_order_every_pass():
    pairs, buffer = make_pairs(rows=10), ExperienceBuffer(seed=3)
    orders = []
    for _ in range(3):
        batches = list(buffer.mini_batches(pairs, 3))
        assert [batch.sequences for batch in batches] == [4, 3, 3]
        scores = torch.cat([batch.scores for batch in batches])
        assert torch.equal(scores.sort().values, pairs.scores.sort().values)
        orders.append(tuple(scores.tolist()))
    assert len(set(orders)) == 3


def test_the_seed_decides_the_order():
    pairs = make_pairs(rows=10)
    order = lambda seed: [b.scores.tolist() for b in ExperienceBuffer(seed).mini_batches(pairs, 2)]  # noqa: E731
    assert order(1) == order(1) != order(2)


def test_micro_batches_cover_every_row_and_lose_no_token():
    pairs = make_pairs(rows=9)
    parts = list(micro_batches([pairs], 30))
    sizes = [int(part.pairs.attention_mask.sum()) for part in parts]
    assert all(part.counts for part in parts)
    assert len(parts) > 2 and all(size <= 30 for size in sizes)
    assert sorted(torch.cat([part.rows for part in parts]).tolist()) == list(range(9))
    assert sorted(t for part in parts for t in real_tokens(part.pairs)) == real_tokens(pairs)
    assert sum(len(part.pairs) for part in parts) == len(pairs)


def test_trimming_drops_padding_columns_only():
    pairs = make_pairs(rows=6, prompt=9, actions=8)
    short = pairs.select(torch.tensor([int(pairs.lengths.argmin())]))
    trimmed = trim_padding(short)
    assert trimmed.attention_mask.all()
    assert trimmed.action_ids.shape[1] == int(short.lengths[0])
    assert torch.equal(trimmed.input_ids[0], short.input_ids[0][short.attention_mask[0]])
    assert torch.equal(trimmed.rewards[0], short.rewards[0, : trimmed.action_ids.shape[1]])
    assert torch.equal(trimmed.input_ids[:, -trimmed.action_ids.shape[1] :], trimmed.action_ids)


def test_trimming_keeps_what_any_row_attends_to():
    """The last columns hold no sampled tokens, only observations of the longest row."""
    pairs = make_pairs(rows=2, prompt=3, actions=6)
    mask = torch.tensor([[True, False, True, False, False, False], [True, False, False, False, False, False]])
    response = torch.tensor([[True] * 5 + [False], [True] + [False] * 5])
    pairs = pairs.with_columns(
        action_mask=mask, attention_mask=torch.cat([pairs.attention_mask[:, :3], response], dim=1)
    )
    assert trim_padding(pairs).action_ids.shape == (2, 5)
    assert real_tokens(trim_padding(pairs)) == real_tokens(pairs)
    assert trim_padding(pairs.select(torch.tensor([1]))).action_ids.shape == (1, 1)


@pytest.mark.parametrize("holes", [False, True])
def test_results_come_back_in_the_rows_own_order(holes):
    pairs = make_pairs(rows=7, dtype=torch.float32, holes=holes)
    out = compute_in_micro_batches(
        pairs, MemoryBudget(20), lambda part: torch.where(part.action_mask, part.rewards, 0.0)
    )
    assert torch.equal(out, torch.where(pairs.action_mask, pairs.rewards, 0.0))


def test_a_budget_below_the_longest_sequence_still_takes_them_one_by_one():
    pairs = make_pairs(rows=4)
    assert [part.pairs.sequences for part in micro_batches([pairs], 1)] == [1, 1, 1, 1]


def test_several_numbers_per_token_come_back_together():
    pairs = make_pairs(rows=7, dtype=torch.float32)

    def two(part):
        return torch.where(part.action_mask, torch.stack([part.rewards, part.values]), 0.0)

    expected = torch.where(pairs.action_mask, torch.stack([pairs.rewards, pairs.values]), 0.0)
    assert torch.equal(compute_in_micro_batches(pairs, MemoryBudget(20), two), expected)
    assert torch.equal(compute_in_micro_batches(pairs, MemoryBudget(20), lambda part: part.scores), pairs.scores)
