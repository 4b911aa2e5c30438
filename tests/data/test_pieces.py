"""Tokens as pieces of text."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ppo_lm.base_setup import EMBEDDED_MODEL
from ppo_lm.data.pieces import token_pieces, vocabulary


def byte_tokenizer():
    """Every byte is a token, so that a character takes up to four."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: number for number, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def word_tokenizer():
    """Like SentencePiece's: a word's first token holds the space before it, which decoding drops at the start."""
    tokenizer = Tokenizer(models.BPE(vocab={"▁": 0, "▁a": 1, "▁b": 2, "c": 3, "<unk>": 4}, merges=[("▁", "a")] * 0))
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize(
    "text", ["plain words", "naïve café", "日本語 and 🙂👍🏽", "a\n\tb  c ", "\u202eright to left", ""]
)
def test_the_pieces_add_up_to_the_text(text):
    tokenizer = byte_tokenizer()
    ids = tokenizer(text)["input_ids"]
    pieces = token_pieces(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text


def test_a_character_is_the_text_of_its_last_byte():
    tokenizer = byte_tokenizer()
    assert token_pieces(tokenizer, tokenizer("a🙂b")["input_ids"]) == ["a", "", "", "", "🙂", "b"]


def test_bytes_that_are_no_character_are_shown_as_such():
    tokenizer = byte_tokenizer()
    broken = tokenizer("🙂")["input_ids"][:2]
    pieces = token_pieces(tokenizer, [*broken, *tokenizer("ab")["input_ids"]])
    assert "".join(pieces) == tokenizer.decode([*broken, *tokenizer("ab")["input_ids"]])
    assert pieces[-1] == "b"


def test_spaces_that_belong_to_words():
    assert token_pieces(word_tokenizer(), [1, 2, 3, 1]) == ["a", " b", "c", " a"]


def test_the_embedded_tokenizer_with_its_end_token():
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    ids = [*tokenizer("My boss left. TL;DR:")["input_ids"], 1]
    pieces = token_pieces(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert pieces[-1] == tokenizer.decode([1]) != ""


def test_vocabulary():
    tokenizer = byte_tokenizer()
    a, b = tokenizer("ab")["input_ids"]
    assert vocabulary(tokenizer, [b, a, -1, a]) == {a: "a", b: "b"}
