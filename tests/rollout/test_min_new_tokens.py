"""`min_new_tokens`: the first tokens come from the distribution without the end tokens, whoever samples."""

import pytest
import torch

from ppo_lm.errors import ConfigError
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.models import SFTModel
from ppo_lm.ppo_trainer import SequenceGenerator
from ppo_lm.rollout import (
    GraphEngine,
    PlainEngine,
    RolloutEngine,
    Sampled,
    SamplingSettings,
    SlotEngine,
    find_excluded,
    sample_tokens,
)
from tests.rollout.conftest import EOS, make_policy, make_prompts, sample

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        (SamplingSettings(9, min_new_tokens=2), [1, 2, 3]),
        (SamplingSettings(9, min_new_tokens=2, top_k=2), [1, 2]),  # the end token leaves its place to another
        (SamplingSettings(9, min_new_tokens=2, top_k=4), [1, 2, 3]),
        (SamplingSettings(9, min_new_tokens=2, top_k=4, top_p=0.7), [1, 2]),  # 0.6 < 0.7 ≤ 0.6 + 0.3
    ],
    ids=str,
)
def test_the_end_token_is_left_out_before_everything_else(settings, allowed):
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits, end = probabilities.log().expand(20_000, 4), torch.tensor([0])
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places = torch.arange(20_000) % 4  # half of the rows have had their first two tokens
    excluded = find_excluded(settings, end, places)
    early = places < 2
    tokens, logprobs, entropies, support = sample_tokens(logits, settings, uniforms, excluded)
    expected = torch.zeros(4)
    expected[allowed] = probabilities[allowed] / probabilities[allowed].sum()
    counts = torch.bincount(tokens[early], minlength=4) / early.sum()
    assert counts[0] == 0 and (counts - expected).abs().max() < 4 * 0.5 / 10_000**0.5  # four standard errors
    torch.testing.assert_close(logprobs[early].exp(), expected[tokens[early]], rtol=0, atol=1e-6)
    torch.testing.assert_close(entropies[early], torch.special.entr(expected).sum().expand(10_000), rtol=0, atol=1e-6)
    if support is not None:
        assert sorted(support[0][support[0] >= 0].tolist()) == allowed
    plain = SamplingSettings(9, top_k=settings.top_k, top_p=settings.top_p)
    for ours, theirs in zip((tokens, logprobs, entropies), sample_tokens(logits, plain, uniforms)):
        assert torch.equal(ours[~early], theirs[~early])


def test_greedy_takes_the_best_of_the_others():
    logits = torch.tensor([[3.0, 1.0, 2.0]]).expand(2, 3)
    excluded = find_excluded(SamplingSettings(5, 0.0, min_new_tokens=1), torch.tensor([0]), [0, 1])
    assert sample_tokens(logits, SamplingSettings(5, 0.0), torch.zeros(2), excluded).ids.tolist() == [2, 0]


SETTINGS = [
    SamplingSettings(12, temperature=1.2, min_new_tokens=5),
    SamplingSettings(12, top_k=30, top_p=0.9, min_new_tokens=5),
    SamplingSettings(12, temperature=0, min_new_tokens=5),
    SamplingSettings(12, min_new_tokens=12),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_engine_says_the_same_and_no_response_ends_before(settings):
    policy, prompts = make_policy(), make_prompts()
    expected = sample(PlainEngine(policy), settings, prompts)
    lengths = [len(row) for row in expected[0]]
    assert min(lengths) >= min(settings.min_new_tokens + 1, 12)
    assert settings.min_new_tokens == 12 or min(lengths) < 12
    budget = MemoryBudget(slots=4)
    for engine in (SlotEngine(policy, budget), GraphEngine(policy, budget, 3), PlainEngine(policy, budget)):
        texts, logprobs, support = sample(engine, settings, prompts)
        assert texts == expected[0]
        width = min(logprobs.shape[1], expected[1].shape[1])
        torch.testing.assert_close(logprobs[:, :width], expected[1][:, :width], rtol=0, atol=1e-4)
        assert (support is None) == (expected[2] is None)
        if support is not None:
            assert not {token for row in support for kept in row[:5] for token in kept} & set(EOS)


@pytest.mark.parametrize("settings", SETTINGS[:2], ids=str)
@pytest.mark.parametrize("recompute", [False, True])
def test_all_numbers_are_those_of_the_distribution_that_was_sampled_from(settings, recompute):
    """Against plain transformers, with the end tokens' logits at −inf and then top-k and top-p."""
    policy = make_policy()
    ids, mask = make_prompts(rows=6)
    prompts = [row[real].tolist() for row, real in zip(ids, mask)]
    generator = SequenceGenerator(policy, SFTModel(policy.base), settings, recompute=recompute)
    pairs, _ = generator.generate_sequences(prompts)
    assert (pairs.excluded_ids is None) == (pairs.support_ids is not None)
    networks = {
        "policy": policy.base.merged_network("policy").network,
        "reference": make_policy(full=True).base.network,
    }
    found = {"policy": (pairs.old_logprobs, pairs.entropies), "reference": (pairs.ref_logprobs, None)}
    for row in range(pairs.sequences):
        tokens, count = pairs.input_ids[row][pairs.attention_mask[row]], int(pairs.lengths[row])
        logits = {}
        for name, network in networks.items():
            with torch.no_grad():
                logits[name] = network(tokens[None]).logits[0, -count - 1 : -1] / settings.temperature
            logits[name][: settings.min_new_tokens, EOS] = -torch.inf
        kept = _kept(logits["policy"], settings)
        for name, (logprobs, entropies) in found.items():
            expected = logits[name].masked_fill(~kept, -torch.inf).log_softmax(dim=1)
            chosen = expected.gather(1, pairs.action_ids[row, :count, None])[:, 0]
            torch.testing.assert_close(logprobs[row, :count], chosen, rtol=0, atol=1e-4)
            if entropies is not None:
                entropy = torch.special.entr(expected.exp()).sum(dim=1)
                torch.testing.assert_close(entropies[row, :count], entropy, rtol=0, atol=1e-4)


def _kept(logits, settings):
    if not settings.top_k:
        return torch.ones_like(logits, dtype=torch.bool)
    best, ids = logits.topk(settings.top_k, dim=1)
    probabilities = best.softmax(dim=1)
    inside = probabilities.cumsum(dim=1) - probabilities < settings.top_p
    return torch.zeros_like(logits, dtype=torch.bool).scatter_(1, ids, inside)


class Short(RolloutEngine):
    def sample(self, prompt_ids, prompt_mask, settings, uniforms):
        ids = torch.tensor([[200, EOS[0], 200]]).expand(len(prompt_ids), 3)
        return Sampled(ids, torch.zeros(ids.shape))


def test_an_engine_that_ends_a_response_before_is_refused():
    policy, prompts = make_policy(), [[200, 201]]
    for fewest in (0, 1):
        settings = SamplingSettings(3, min_new_tokens=fewest)
        SequenceGenerator(policy, SFTModel(policy.base), settings, engine=Short()).generate_sequences(prompts)
    generator = SequenceGenerator(policy, SFTModel(policy.base), SamplingSettings(3, min_new_tokens=2), engine=Short())
    with pytest.raises(ConfigError, match="min_new_tokens is 2, but the engine Short ended a response before; set min"):
        generator.generate_sequences(prompts)
