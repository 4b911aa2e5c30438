import pytest
import torch

from ppo_lm.token_attribution import attribute_scores, build_sa_pairs, extract_actions

pytestmark = pytest.mark.fast


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


def test_the_score_lands_on_the_last_sampled_token():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0]], dtype=torch.bool)
    placed = attribute_scores(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), mask)
    assert placed.tolist() == [[0, 1, 0], [0, 0, 2], [3, 0, 0], [0, 0, 0], [0, 0, 5], [0, 6, 0]]
    with pytest.raises(ValueError, match="one per sequence"):
        attribute_scores(torch.zeros(2), mask)


def test_observations_are_attended_to_and_were_not_sampled():
    prompt = torch.tensor([[0, 5], [5, 6]])
    actions = torch.tensor([[8, 2, 6, 7, 2], [8, 9, 2, 0, 0]])
    sampled = torch.tensor([[1, 1, 0, 0, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    ended = torch.ones(2, dtype=torch.bool)
    pairs = build_sa_pairs(prompt, prompt > 0, actions, sampled, ended, torch.full((2, 5), -1.0), response_mask=real)
    assert pairs.attention_mask.long().tolist() == [[0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]]
    assert torch.equal(pairs.response_mask, real)
    assert pairs.lengths.tolist() == [3, 3]
    assert pairs.old_logprobs.tolist() == [[-1, -1, 0, 0, -1], [-1, -1, -1, 0, 0]]
    assert pairs.pair(0, 4).state == [5, 8, 2, 6, 7] and pairs.pair(0, 4).action == 2


@pytest.mark.parametrize(
    ("prompt_mask", "action_mask", "response_mask", "message"),
    [
        ([1, 0], [1, 1, 0], None, "prompts must be left-padded: .* of sequences 0"),
        ([1, 1], [0, 1, 0], None, "responses must be right-padded: .* of sequences 0"),
        ([1, 1], [1, 0, 1], None, "responses must be right-padded: .* of sequences 0"),
        ([1, 1], [1, 0, 1], [1, 1, 0], "a sampled token must be attended to: .* of sequences 0"),
    ],
)
def test_masks_that_do_not_fit_together_are_refused(prompt_mask, action_mask, response_mask, message):
    whole = [1] * 3
    response = None if response_mask is None else torch.tensor([response_mask, whole]).bool()
    with pytest.raises(ValueError, match=message):
        build_sa_pairs(
            torch.full((2, 2), 5),
            torch.tensor([prompt_mask, [1, 1]]).bool(),
            torch.full((2, 3), 6),
            torch.tensor([action_mask, whole]).bool(),
            torch.ones(2, dtype=torch.bool),
            torch.zeros(2, 3),
            response_mask=response,
        )
