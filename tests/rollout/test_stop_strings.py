"""Stop strings: the first token that completes one, however the text is spelt, and what every engine makes of it."""

import random
from functools import cache

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ppo_lm.base_setup import EMBEDDED_MODEL
from ppo_lm.data.encoding import decode
from ppo_lm.data.pieces import INCOMPLETE
from ppo_lm.errors import ConfigError
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.rollout import (
    GraphEngine,
    PlainEngine,
    SamplingSettings,
    SlotEngine,
    StopStrings,
    read_completions,
    write_completions,
)
from tests.conftest import uniforms
from tests.rollout.conftest import EOS, make_policy, make_prompts

pytestmark = pytest.mark.fast


@cache
def embedded():
    return AutoTokenizer.from_pretrained(EMBEDDED_MODEL)


@cache
def byte_level():
    """A token for every byte, and for a few words."""
    vocabulary = {char: number for number, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@cache
def byte_fallback():
    """As Llama 2's: words with the space before them, which the first one loses, and tokens of single bytes."""
    words = ["<s>", "▁a", "▁", "b", "ab", "▁ba", "\u65e5"]
    vocabulary = {word: number for number, word in enumerate([*words, *(f"<0x{byte:02X}>" for byte in range(256))])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<s>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def utf8(tokenizer, text):
    """The tokens of single bytes that spell a text."""
    return tokenizer(text)["input_ids"] if tokenizer is byte_level() else [7 + byte for byte in text.encode()]


def find(tokenizer, ids, *strings, **settings):
    return StopStrings(tokenizer, SamplingSettings(1000, stop_strings=strings, **settings)).find(ids)


def first_prefix(tokenizer, ids, strings):
    """(tokens, text): the shortest prefix whose text has one of the strings, and its text before the first of them."""
    for count in range(1, len(ids) + 1):
        text = decode(tokenizer, ids[:count])
        places = [text.index(string) for string in strings if string in text]
        if places:
            return count, text[: min(places)]
    return None


def random_ids(tokenizer, rng):
    if tokenizer is embedded():
        return [rng.randrange(1, len(tokenizer)) for _ in range(rng.randrange(1, 60))]
    ids = []
    while len(ids) < 40:  # characters of several bytes, some of them broken off
        word = utf8(tokenizer, " ba") if tokenizer is byte_level() else [rng.randrange(7)]
        ids += rng.choice([word, utf8(tokenizer, rng.choice("\né🙂")), utf8(tokenizer, "é🙂")[: rng.randrange(6)]])
    return ids


@pytest.mark.parametrize("make", [embedded, byte_level, byte_fallback])
def test_a_response_ends_with_the_shortest_prefix_that_has_a_stop_string(make):
    """On random tokens, for strings of their text and others."""
    rng, tokenizer, found = random.Random(0), make(), 0
    for _ in range(120):
        ids = random_ids(tokenizer, rng)
        text = decode(tokenizer, ids)
        start = rng.randrange(len(text) + 1)
        strings = [text[start : start + rng.randrange(1, 9)], rng.choice(["\n", "zzz", "\u65e5b", " b"])]
        strings = [string for string in strings if string and INCOMPLETE not in string] or ["b"]
        expected = first_prefix(tokenizer, ids, strings)
        assert find(tokenizer, ids, *strings) == expected
        found += expected is not None
    assert found > 40


def test_strings_begin_and_end_within_tokens():
    tokenizer = embedded()
    ids = tokenizer(" My boss yelled at me. I quit.")["input_ids"]
    pieces = [decode(tokenizer, [token]) for token in ids]
    yelled = pieces.index(" yelled")
    assert find(tokenizer, ids, "s yell") == (yelled + 1, " My bos")
    assert find(tokenizer, ids, pieces[0][1]) == (1, pieces[0][:1])  # in the first token
    assert find(tokenizer, ids, "nowhere") is None
    assert find(tokenizer, ids, "I quit", "boss") == (pieces.index(" boss") + 1, " My ")  # the first of both
    assert find(tokenizer, [], "I") is None


def test_a_character_of_several_tokens_ends_with_its_last_byte():
    tokenizer = byte_level()
    ids = tokenizer("aé🙂b")["input_ids"]
    assert find(tokenizer, ids, "🙂") == (7, "aé")
    assert find(tokenizer, ids, "é", "🙂") == (3, "a")
    assert find(tokenizer, ids[:6], "🙂") is None


def test_what_is_complete_before_the_fewest_tokens_does_not_count():
    tokenizer = byte_level()
    ids = tokenizer("ab ab ab")["input_ids"]
    assert find(tokenizer, ids, "ab", min_new_tokens=2) == (2, "")
    assert find(tokenizer, ids, "ab", min_new_tokens=3) == (5, "ab ")
    assert find(tokenizer, ids, "ab", min_new_tokens=5) == (5, "ab ")
    assert find(tokenizer, ids, "ab", min_new_tokens=9) is None


def test_looking_every_few_tokens_finds_the_same():
    rng, tokenizer = random.Random(1), embedded()
    for _ in range(50):
        ids = random_ids(tokenizer, rng)
        stops = StopStrings(tokenizer, SamplingSettings(1000, stop_strings=("e", "in t", ". ")))
        looked_at, found = 0, None
        while found is None and looked_at < len(ids):
            found = stops.find(ids[: looked_at + 3], looked_at)
            looked_at += 3
        assert found == stops.find(ids)


def test_the_name_of_a_special_token_is_refused():
    with pytest.raises(
        ConfigError, match="stop_strings has '<s>', a special token, which is not part of .*; remove it"
    ):
        find(byte_fallback(), [1], "<s>")


STOPS = ("e", "th")  # of random tokens, most responses say one soon


def completions(engine, settings, prompts):
    policy = engine.policy
    sampled = engine.sample(*prompts, settings, uniforms(prompts[0], settings))
    return read_completions(sampled, policy.base, StopStrings(policy.base.tokenizer, settings))


def rows_of(made):
    return [(row[mask].tolist(), text) for row, mask, text in zip(made.ids, made.mask, made.texts)]


@pytest.fixture(scope="module")
def policy():
    made = make_policy()
    made.base.eos_token_ids = EOS[:30]
    return made


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(24, temperature=1.1, stop_strings=STOPS),
        SamplingSettings(24, top_k=30, top_p=0.9, stop_strings=STOPS, min_new_tokens=6),
        SamplingSettings(24, temperature=0, stop_strings=STOPS, min_new_tokens=3),
    ],
    ids=str,
)
def test_every_engine_ends_every_row_where_the_whole_response_would_be_cut(policy, settings):
    """The oracle: sample without stop strings, then cut. So neither slots nor other rows change what a row says."""
    prompts, tokenizer = make_prompts(rows=9), policy.base.tokenizer
    whole = rows_of(completions(PlainEngine(policy), SamplingSettings(24, *_kept(settings)), prompts))
    expected = []
    for ids, text in whole:
        stop = StopStrings(tokenizer, settings).find(ids)
        expected.append((ids, text) if stop is None else (ids[: stop.tokens], stop.text))
    assert sum(row != other for row, other in zip(whole, expected)) > 3
    few, many = MemoryBudget(slots=4), MemoryBudget(slots=64)
    slots, graphs = ([kind(policy, budget) for budget in (few, many)] for kind in (SlotEngine, GraphEngine))
    for engine in (PlainEngine(policy, few), *slots, *graphs, SlotEngine(policy, MemoryBudget(slots=1))):
        found = completions(engine, settings, prompts)
        assert rows_of(found) == expected
        assert found.stopped.tolist() == [row != other for row, other in zip(whole, expected)]
        ended = [len(ids) < 24 or ids[-1] in EOS[:30] for ids, _ in whole]
        assert [a or b for a, b in zip(ended, found.stopped.tolist())] == found.terminated.tolist()


def _kept(settings):
    return settings.temperature, settings.top_k, settings.top_p, settings.min_new_tokens


@pytest.mark.parametrize("kind", [PlainEngine, SlotEngine, GraphEngine])
def test_engines_stop_sampling_soon_after(policy, kind):
    """Within 8 tokens of the stop, and those come from the response's own random numbers."""
    prompts = make_prompts(rows=6)
    settings = SamplingSettings(100, temperature=1.1, stop_strings=tuple("abcdefghijklmnopqrstuvwxyz"))
    sampled = kind(policy, MemoryBudget(slots=2)).sample(*prompts, settings, uniforms(prompts[0], settings))
    made = read_completions(sampled, policy.base, StopStrings(policy.base.tokenizer, settings))
    assert made.terminated.all()
    assert sampled.ids.shape[1] <= made.mask.sum(dim=1).max() + 8 < 40


def test_row_order_changes_nothing(policy):
    settings = SamplingSettings(30, stop_strings=STOPS)
    ids, mask = make_prompts(rows=7)
    engine, flipped = SlotEngine(policy, MemoryBudget(slots=3)), torch.arange(6, -1, -1)
    uniforms = torch.rand(7, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.inference_mode():
        made = [
            engine._sample(ids[order], mask[order], settings, uniforms[order], 3)
            for order in (torch.arange(7), flipped)
        ]
    stops = StopStrings(policy.base.tokenizer, settings)
    first, second = (rows_of(read_completions(each.sampled(), policy.base, stops)) for each in made)
    assert first == second[::-1]


def test_written_completions_lack_the_stop_string(policy):
    prompts = [row[mask].tolist() for row, mask in zip(*make_prompts(rows=4))]
    whole = write_completions(policy, prompts, SamplingSettings(20))
    cut = write_completions(policy, prompts, SamplingSettings(20, stop_strings=("e",)))
    assert cut == [text.partition("e")[0] for text in whole] != whole
