import pytest
import torch

from tests.conftest import make_pairs

pytestmark = pytest.mark.fast


def test_len_counts_sampled_tokens_and_select_keeps_rows():
    pairs = make_pairs(rows=5)
    assert len(pairs) == int(pairs.action_mask.sum())
    part = pairs.select(torch.tensor([3, 1]))
    assert part.sequences == 2
    assert torch.equal(part.rewards, pairs.rewards[[3, 1]])
    assert torch.equal(part.scores, pairs.scores[[3, 1]])


def test_pair_is_the_real_prefix_the_action_and_its_numbers():
    pairs = make_pairs(rows=5)
    row = int(pairs.lengths.argmin())
    last = int(pairs.lengths[row]) - 1
    pair = pairs.pair(row, last)
    real = pairs.input_ids[row][pairs.attention_mask[row]].tolist()
    assert pair.state == real[:-1]
    assert pair.action == real[-1]
    assert pair.numbers["rewards"] == pairs.rewards[row, last].item()
    assert last + 1 < pairs.action_ids.shape[1]
    with pytest.raises(
        IndexError, match=f"sequence {row} has no action at {last + 1}; its actions are at \\[.*{last}]"
    ):
        pairs.pair(row, last + 1)


def test_an_observation_is_part_of_later_states_but_not_a_pair():
    pairs = make_pairs(rows=1, prompt=2, actions=4)
    pairs = pairs.with_columns(action_mask=torch.tensor([[True, False, False, True]]))
    assert pairs.pair(0, 3).state == pairs.input_ids[0, :5].tolist()
    assert len(pairs) == pairs.lengths[0] == 2
    with pytest.raises(IndexError, match=r"sequence 0 has no action at 2; its actions are at \[0, 3\]"):
        pairs.pair(0, 2)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("rewards", torch.zeros(5, 6), r"rewards has shape \(5, 6\).*needs \(5, 7\)"),
        ("scores", torch.zeros(5, 1), r"scores has shape \(5, 1\).*needs \(5,\)"),
        (
            "values",
            torch.zeros(5, 7, dtype=torch.float16),
            "values is torch.float16; it needs torch.float32 or torch.float64",
        ),
        ("action_mask", torch.ones(5, 7), "action_mask is torch.float32; it needs torch.bool"),
        ("support_ids", torch.zeros(5, 7, dtype=torch.int64), r"support_ids has shape \(5, 7\).*needs \(5, 7, K\)"),
        ("input_ids", torch.zeros(5, 3, dtype=torch.int64), r"needs \(5, at least 7\)"),
        ("rewards", torch.zeros(5, 7, device="meta"), "rewards is on meta, but action_ids is on cpu"),
    ],
)
def test_a_wrong_column_is_refused_with_both_numbers(column, value, message):
    with pytest.raises(ValueError, match=message):
        make_pairs(rows=5, actions=7).with_columns(**{column: value})


def test_pairs_are_frozen():
    pairs = make_pairs()
    with pytest.raises(AttributeError):
        pairs.rewards = torch.zeros(5, 7)
