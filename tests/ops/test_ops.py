import pytest
import torch

from ppo_lm.ops import (
    action_logprobs,
    explained_variance,
    masked_mean,
    masked_whiten,
    next_where,
    position_ids,
)
from ppo_lm.ops.logprobs import CHUNK

pytestmark = pytest.mark.fast


def case(rows=3, actions=5, hidden=8, vocabulary=40, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=dtype)  # noqa: E731
    states, weight = draw(rows, actions, hidden), draw(vocabulary, hidden)
    ids = torch.randint(0, vocabulary, (rows, actions), generator=g)
    mask = torch.rand(rows, actions, generator=g) < 0.7
    return states, weight, ids, mask


@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.0])
def test_log_probabilities_are_the_log_softmax_over_the_vocabulary(temperature):
    states, weight, ids, mask = case()
    expected = (states @ weight.T / temperature).log_softmax(-1).gather(2, ids[..., None])[..., 0]
    ours = action_logprobs(states, lambda h: h @ weight.T, ids, mask, temperature=temperature)
    torch.testing.assert_close(ours, torch.where(mask, expected, 0.0), rtol=0, atol=1e-12)


def test_on_a_support_they_are_renormalised_over_it():
    states, weight, ids, mask = case()
    support = torch.stack([ids, (ids + 1) % 40, torch.full_like(ids, -1)], dim=2)
    logits = states @ weight.T
    both = logits.gather(2, support[..., :2])
    expected = torch.where(mask, both.log_softmax(-1)[..., 0], 0.0)
    ours = action_logprobs(states, lambda h: h @ weight.T, ids, mask, support_ids=support)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen head", "trained head"])
def test_without_excluded_tokens_they_are_renormalised_over_the_others(frozen):
    """And so are entropies and gradients. Row 0 excludes two tokens, row 1 token 0, row 2 none."""
    states, weight, ids, mask = case()
    ids[:2] = ids[:2].clamp(min=3)
    excluded = torch.tensor([[1, 2], [-1, 0], [-1, -1]])[:, None].expand(3, 5, 2)
    head = torch.nn.Linear(8, 40, bias=False, dtype=torch.float64).requires_grad_(not frozen)
    head.weight.data.copy_(weight)
    found = []
    for ours in (True, False):
        leaf = states.clone().requires_grad_()
        if ours:
            logprobs, entropies = action_logprobs(
                leaf, head, ids, mask, temperature=0.7, excluded_ids=excluded, chunk=4, entropy=True
            )
        else:
            logits = leaf @ weight.T / 0.7
            columns = torch.arange(40)
            left_out = torch.stack([(columns == 1) | (columns == 2), columns == 0, columns < 0])
            possible = torch.where(left_out[:, None], -1e9, logits).log_softmax(dim=2)
            logprobs = torch.where(mask, possible.gather(2, ids[..., None])[..., 0], 0.0)
            entropies = torch.where(mask, -(possible.exp() * possible).sum(dim=2), 0.0)
        (logprobs.sum() + (entropies * torch.arange(15).view(3, 5)).sum()).backward()
        found.append((logprobs.detach(), entropies.detach(), leaf.grad))
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_support_is_given_in_one_way():
    states, _, ids, mask = case()
    with pytest.raises(ValueError, match="by its tokens or by those that it lacks"):
        action_logprobs(states, lambda h: h, ids, mask, support_ids=ids[..., None], excluded_ids=ids[..., None])


def test_chunks_change_neither_values_nor_gradients():
    states, weight, ids, mask = case(rows=8)
    results = []
    for chunk in (1, 3, CHUNK):
        leaf = states.clone().requires_grad_()
        out = action_logprobs(leaf, lambda h: h @ weight.T, ids, mask, chunk=chunk)
        (out * torch.arange(out.numel()).view_as(out)).sum().backward()
        assert torch.all(leaf.grad[~mask] == 0)
        results.append((out.detach(), leaf.grad))
    for out, gradient in results[1:]:
        torch.testing.assert_close(out, results[0][0], rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient, results[0][1], rtol=0, atol=1e-12)


def test_half_precision_logits_are_normalised_in_fp32():
    states, weight, ids, mask = case(dtype=torch.float32)
    out = action_logprobs(states.bfloat16(), lambda h: h @ weight.bfloat16().T, ids, mask)
    assert out.dtype == torch.float32
    logits = (states.bfloat16() @ weight.bfloat16().T).float()
    expected = torch.where(mask, logits.log_softmax(-1).gather(2, ids[..., None])[..., 0], 0.0)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)


def test_no_real_token_at_all():
    states, weight, ids, mask = case()
    assert torch.all(action_logprobs(states, lambda h: h @ weight.T, ids, torch.zeros_like(mask)) == 0)


def test_positions_count_real_tokens_only():
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    assert position_ids(mask)[0, 2:5].tolist() == [0, 1, 2]
    assert position_ids(mask)[1].tolist() == [0, 1, 2, 3, 4, 5]


def test_mean_and_whitening_ignore_padding():
    values = torch.tensor([[1.0, 2.0, torch.nan], [6.0, torch.inf, torch.nan]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_mean(values, mask) == 3.0
    white = masked_whiten(values, mask)
    # mean 3, biased variance (4 + 1 + 9) / 3
    scale = (14 / 3) ** -0.5
    expected = torch.tensor([[-2 * scale, -scale, 0], [3 * scale, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(white, expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(
        masked_whiten(values, mask, shift_mean=False)[mask], expected[mask] + 3, rtol=0, atol=1e-8
    )


def test_the_next_value_is_that_of_the_next_true_place():
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, torch.nan], [5.0, 6.0, 7.0, 8.0]])
    mask = torch.tensor([[True, True, True, True], [True, False, True, False], [False] * 4])
    assert next_where(values, mask).tolist() == [[2, 3, 4, 0], [3, 3, 0, 0], [0, 0, 0, 0]]


def test_explained_variance_by_hand():
    mask = torch.ones(1, 4, dtype=torch.bool)
    targets = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert explained_variance(targets, targets, mask) == 1.0
    assert explained_variance(torch.zeros(1, 4), targets, mask) == 0.0
    assert explained_variance(-targets, targets, mask) == pytest.approx(-3.0)
    assert explained_variance(targets, torch.ones(1, 4), mask) == 0.0


@pytest.mark.parametrize("kept", [None, 2])
def test_entropies_and_their_gradient_are_those_of_the_distribution(kept):
    states, weight, ids, mask = case()
    support = None if kept is None else torch.stack([ids, (ids + 1) % 40, torch.full_like(ids, -1)], dim=2)
    gradients = []
    for ours in (False, True):
        leaf = states.clone().requires_grad_()
        if ours:
            logprobs, entropies = action_logprobs(
                leaf, lambda h: h @ weight.T, ids, mask, temperature=0.7, support_ids=support, chunk=2, entropy=True
            )
            torch.testing.assert_close(
                logprobs,
                action_logprobs(leaf, lambda h: h @ weight.T, ids, mask, temperature=0.7, support_ids=support),
                rtol=0,
                atol=1e-12,
            )
        else:
            logits = leaf @ weight.T / 0.7
            logits = logits if support is None else logits.gather(2, support[..., :2])
            expected = entropies = torch.where(mask, torch.distributions.Categorical(logits=logits).entropy(), 0.0)
        (entropies * torch.arange(entropies.numel()).view_as(entropies)).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(entropies, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-11)
    assert gradients[0].abs().max() > 0.1


def test_the_entropy_of_a_certain_choice_is_0_with_a_finite_gradient():
    hidden = torch.tensor([[[1000.0, 0.0]]], requires_grad=True)
    _, entropy = action_logprobs(
        hidden, lambda h: h, torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool), entropy=True
    )
    entropy.sum().backward()
    assert entropy.item() == 0.0
    assert hidden.grad.tolist() == [[[0.0, 0.0]]]
