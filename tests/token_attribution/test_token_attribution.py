import pytest
import torch

from ppo_lm.token_attribution import attribute_scores, build_sa_pairs, extract_actions


def test_the_response_is_cut_after_its_first_eos():
    sampled = torch.tensor([[5, 2, 7, 2], [5, 6, 7, 8], [2, 2, 2, 2], [5, 6, 7, 9]])
    ids, mask, terminated = extract_actions(sampled, eos_token_ids=[2, 9], pad_token_id=0)
    assert ids.tolist() == [[5, 2, 0, 0], [5, 6, 7, 8], [2, 0, 0, 0], [5, 6, 7, 9]]
    assert mask.sum(dim=1).tolist() == [2, 4, 1, 4]
    assert terminated.tolist() == [True, False, True, True]


def test_a_pad_token_that_is_sampled_stays_an_action():
    ids, mask, _ = extract_actions(torch.tensor([[0, 5, 2]]), eos_token_ids=[2], pad_token_id=0)
    assert ids.tolist() == [[0, 5, 2]]
    assert mask.tolist() == [[True, True, True]]


def test_the_score_lands_on_the_last_action():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    placed = attribute_scores(torch.tensor([1.0, 2.0, 3.0, 4.0]), mask)
    assert placed.tolist() == [[0, 1, 0], [0, 0, 2], [3, 0, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="one a sequence"):
        attribute_scores(torch.zeros(2), mask)


def test_prompts_padded_on_the_right_are_refused():
    ids, mask = torch.tensor([[5, 6], [5, 0]]), torch.tensor([[True, True], [True, False]])
    actions = torch.ones(2, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="padded on the left"):
        build_sa_pairs(ids, mask, actions, actions.bool(), torch.ones(2, dtype=torch.bool), torch.zeros(2, 1))
