"""The most likely tokens, against a softmax over everything in fp64."""

import pytest
import torch
from torch import nn

from ppo_lm.ops import action_logprobs, top_choices


def case(support=None, seed=0):
    torch.manual_seed(seed)
    hidden, head = torch.randn(2, 5, 8), nn.Linear(8, 40)
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]]).bool()
    support_ids = None
    if support:
        support_ids = torch.stack([torch.randperm(40)[:support] for _ in range(10)]).view(2, 5, support)
    return hidden, head, mask, support_ids


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equal_to_a_whole_softmax_in_fp64(temperature):
    hidden, head, mask, _ = case()
    with torch.no_grad():
        found = top_choices(hidden, head, mask, 3, temperature=temperature)
        whole = (head.double()(hidden.double()) / temperature).log_softmax(dim=2)
    expected, ids = whole.topk(3, dim=2)
    assert torch.equal(found.ids[mask], ids[mask])
    torch.testing.assert_close(found.logprobs[mask].double(), expected[mask], atol=1e-6, rtol=0)
    assert (found.ids[~mask] == -1).all()
    assert (found.logprobs[~mask] == 0).all()


def test_on_the_support_that_was_sampled_from():
    hidden, head, mask, support = case(support=6)
    support[0, 0, 2:] = -1  # top-p left two
    with torch.no_grad():
        found = top_choices(hidden, head, mask, 4, support_ids=support)
    assert found.ids[0, 0, 2:].tolist() == [-1, -1]
    assert set(found.ids[0, 0, :2].tolist()) == set(support[0, 0, :2].tolist())
    torch.testing.assert_close(found.logprobs[0, 0, :2].exp().sum(), torch.tensor(1.0))
    for place in mask.nonzero().tolist():
        row, column = place
        assert set(found.ids[row, column].tolist()) <= {*support[row, column].tolist(), -1}


@pytest.mark.parametrize("support", [None, 6])
def test_a_token_has_the_log_probability_that_training_gives_it(support):
    hidden, head, mask, support_ids = case(support)
    with torch.no_grad():
        found = top_choices(hidden, head, mask, 2, temperature=1.3, support_ids=support_ids)
        for choice in range(2):
            ids = found.ids[..., choice].clamp(min=0)
            expected = action_logprobs(hidden, head, ids, mask, temperature=1.3, support_ids=support_ids)
            torch.testing.assert_close(found.logprobs[..., choice], expected)


def test_in_chunks_as_at_once(monkeypatch):
    hidden, head, mask, _ = case()
    with torch.no_grad():
        whole = top_choices(hidden, head, mask, 3)
        monkeypatch.setattr("ppo_lm.ops.choices.rows_at_once", lambda device: 2)
        chunked = top_choices(hidden, head, mask, 3)
    assert torch.equal(whole.ids, chunked.ids)
    torch.testing.assert_close(whole.logprobs, chunked.logprobs)


def test_more_choices_than_tokens():
    hidden, head, mask, _ = case()
    with torch.no_grad():
        found = top_choices(hidden, head, mask, 50)
    assert (found.ids[mask][:, :40].sort(dim=1).values == torch.arange(40)).all()
    assert (found.ids[mask][:, 40:] == -1).all()
