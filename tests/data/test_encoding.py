"""Texts to token ids."""

import pytest
from transformers import AutoTokenizer

from ppo_lm.base_setup import EMBEDDED_MODEL
from ppo_lm.data.encoding import encode_completion, encode_prompt

pytestmark = pytest.mark.fast


def test_a_completion_keeps_its_leading_space_and_ends_with_eos():
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    prompt, completion = encode_prompt(tokenizer, "TL;DR:"), encode_completion(tokenizer, " I quit.", 1)
    assert completion[-1] == 1 and completion.count(1) == 1
    assert tokenizer.decode([*prompt, *completion[:-1]]) == "TL;DR: I quit."
