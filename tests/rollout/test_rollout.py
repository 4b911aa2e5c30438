import pytest
import torch

from ppo_lm.base_setup import make_lora_config
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.models import PolicyModel, SFTModel
from ppo_lm.ppo_trainer import SequenceGenerator
from ppo_lm.rollout import SamplingSettings, sample_tokens
from tests.conftest import make_base

pytestmark = pytest.mark.fast

PROMPTS = [
    "SUBREDDIT: r/advice TITLE: My boss",
    "POST: I",
    "TL;DR:",
    "So last week Jake got arrested after a fight. TL;DR:",
]


def generated(base, settings, seed=0, prompts=PROMPTS):
    """Pairs from a policy whose adapter is not zero, so that policy and reference differ."""
    if base.peft is None:
        base.add_adapter("policy", make_lora_config(4, 8, 0.1))
        torch.manual_seed(1)
        for name, parameter in base.network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    policy, sft = PolicyModel(base), SFTModel(base)
    generator = SequenceGenerator(policy, sft, settings, MemoryBudget(60), seed)
    return policy, sft, *generator.generate_sequences(prompts)


SETTINGS = [
    SamplingSettings(20, temperature=1.0),
    SamplingSettings(20, temperature=0.7),
    SamplingSettings(20, temperature=1.3, top_k=50),
    SamplingSettings(20, temperature=1.0, top_p=0.8),
    SamplingSettings(20, temperature=0.9, top_k=20, top_p=0.9),
    SamplingSettings(20, temperature=1.0, top_k=1),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_log_probabilities_while_sampling_equal_a_fresh_pass(settings):
    base = make_base()
    base.eos_token_ids = list(range(1, 200))  # so that some responses end early
    policy, sft, pairs, _ = generated(base, settings, prompts=PROMPTS * 4)
    assert len(set(pairs.lengths.tolist())) > 1
    with torch.no_grad():
        fresh, reference = (
            policy.action_logprobs(pairs, settings.temperature),
            sft.action_logprobs(pairs, settings.temperature),
        )
    torch.testing.assert_close(fresh, pairs.old_logprobs, rtol=0, atol=1e-4)
    torch.testing.assert_close(reference, pairs.ref_logprobs, rtol=0, atol=1e-4)
    if settings.top_k != 1:
        assert (pairs.old_logprobs - pairs.ref_logprobs)[pairs.action_mask].abs().max() > 0.1


@pytest.mark.parametrize("settings", SETTINGS[1:5], ids=str)
def test_an_independent_pass_through_transformers_agrees(settings):
    """No padding, no shared code: the plain forward pass of each row alone, cut to the support by hand."""
    base = make_base()
    _policy, _, pairs, _ = generated(base, settings)
    with base.role("policy"), torch.no_grad():
        for row in range(pairs.sequences):
            ids = pairs.input_ids[row][pairs.attention_mask[row]]
            logits = base.network(input_ids=ids[None]).logits[0] / settings.temperature
            count = int(pairs.lengths[row])
            for t in range(count):
                z = logits[len(ids) - count + t - 1]
                if settings.top_k:
                    z = z.masked_fill(z < z.topk(settings.top_k).values[-1], -torch.inf)
                if settings.top_p < 1:
                    p, order = z.softmax(0).sort(descending=True)
                    z = z.index_fill(0, order[p.cumsum(0) - p >= settings.top_p], -torch.inf)
                expected = z.log_softmax(0)[pairs.action_ids[row, t]]
                assert pairs.old_logprobs[row, t].item() == pytest.approx(expected.item(), abs=1e-4)


def test_padding_and_neighbours_change_no_log_probability():
    base = make_base()
    policy, _, pairs, _ = generated(base, SETTINGS[0])
    alone = [policy.action_logprobs(pairs.select(torch.tensor([row]))).detach() for row in range(pairs.sequences)]
    torch.testing.assert_close(torch.cat(alone), pairs.old_logprobs, rtol=0, atol=1e-5)


def test_the_seed_decides_the_sample():
    texts = [generated(make_base(), SETTINGS[0], seed)[3] for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_responses_end_at_eos_and_padding_follows():
    base = make_base()
    base.eos_token_ids = list(range(1, 400))
    _, _, pairs, texts = generated(base, SETTINGS[0], prompts=PROMPTS * 3)
    for row, length in enumerate(pairs.lengths.tolist()):
        response = pairs.action_ids[row].tolist()
        assert all(token not in base.eos_token_ids for token in response[: length - 1])
        assert (response[length - 1] in base.eos_token_ids) == bool(pairs.terminated[row])
        assert set(response[length:]) <= {base.tokenizer.pad_token_id}
        assert torch.all(pairs.old_logprobs[row, length:] == 0)
        assert texts[row] == base.tokenizer.decode(response[:length], skip_special_tokens=True)
    assert pairs.terminated.any()


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        (SamplingSettings(1, top_k=2), [0, 1]),
        (SamplingSettings(1, top_p=0.75), [0, 1]),  # 0.5 < 0.75 ≤ 0.5 + 0.3
        (SamplingSettings(1, top_k=3, top_p=0.5), [0]),  # the first token alone reaches 0.5 / 0.95
        (SamplingSettings(1), [0, 1, 2, 3]),
    ],
    ids=str,
)
def test_samples_follow_the_truncated_distribution(settings, allowed):
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = probabilities.log().expand(40_000, 4)
    tokens, logprobs, entropies, support = sample_tokens(
        logits, settings, torch.rand(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )
    expected = torch.zeros(4)
    expected[allowed] = probabilities[allowed] / probabilities[allowed].sum()
    counts = torch.bincount(tokens, minlength=4) / len(tokens)
    assert torch.all(counts[expected == 0] == 0)
    assert (counts - expected).abs().max() < 4 * 0.5 / len(tokens) ** 0.5  # four standard errors
    torch.testing.assert_close(logprobs.exp(), expected[tokens], rtol=0, atol=1e-6)
    torch.testing.assert_close(entropies, torch.special.entr(expected).sum().expand(40_000), rtol=0, atol=1e-6)
    if support is not None:
        assert sorted(support[0][support[0] >= 0].tolist()) == allowed


def test_temperature_0_is_greedy():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert sample_tokens(logits, SamplingSettings(1, temperature=0), torch.zeros(2))[0].tolist() == [1, 0]


def test_greedy_equals_transformers_generate():
    base = make_base()
    pairs, _ = SequenceGenerator(
        PolicyModel(base, None), SFTModel(base), SamplingSettings(12, temperature=0)
    ).generate_sequences(PROMPTS)
    for row in range(pairs.sequences):
        width = pairs.input_ids.shape[1] - pairs.action_ids.shape[1]
        prompt = pairs.input_ids[row, :width][pairs.attention_mask[row, :width]][None]
        theirs = base.network.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=12
        )[0, prompt.shape[1] :]
        length = int(pairs.lengths[row])
        assert pairs.action_ids[row, :length].tolist() == theirs[:length].tolist()
