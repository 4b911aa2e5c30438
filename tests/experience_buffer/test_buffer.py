import pytest
import torch

from ppo_lm.errors import UserError
from ppo_lm.experience_buffer import (
    ExperienceBuffer,
    TokenBudget,
    compute_in_micro_batches,
    micro_batches,
    trim_padding,
)
from tests.conftest import make_pairs


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
    parts = list(micro_batches(pairs, 30))
    sizes = [int(part.attention_mask.sum()) for _, part in parts]
    assert len(parts) > 2 and all(size <= 30 for size in sizes)
    assert sorted(torch.cat([rows for rows, _ in parts]).tolist()) == list(range(9))
    assert sorted(t for _, part in parts for t in real_tokens(part)) == real_tokens(pairs)
    assert sum(len(part) for _, part in parts) == len(pairs)


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
    """The last columns hold nothing that was sampled, but observations of the longest row."""
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
        pairs, TokenBudget(20), lambda part: torch.where(part.action_mask, part.rewards, 0.0)
    )
    assert torch.equal(out, torch.where(pairs.action_mask, pairs.rewards, 0.0))


def test_a_budget_below_the_longest_sequence_still_takes_them_one_by_one():
    pairs = make_pairs(rows=4)
    assert [part.sequences for _, part in micro_batches(pairs, 1)] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_halves_the_budget_and_the_result_is_the_same(error):
    pairs, budget = make_pairs(rows=7, dtype=torch.float32), TokenBudget(80)

    def rewards(part):
        if part.attention_mask.sum() > 40:
            raise error
        return torch.where(part.action_mask, part.rewards, 0.0)

    assert torch.equal(
        compute_in_micro_batches(pairs, budget, rewards), torch.where(pairs.action_mask, pairs.rewards, 0.0)
    )
    assert budget.tokens == 40


def test_one_sequence_that_does_not_fit_is_one_sentence():
    def never(part):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    with pytest.raises(UserError, match="out of memory with a single sequence of .* set max_new_tokens"):
        compute_in_micro_batches(make_pairs(rows=3), TokenBudget(64), never)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def broken(part):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        compute_in_micro_batches(make_pairs(rows=3), TokenBudget(64), broken)
