"""Conversations go through the model's own chat template, and end with its own end token."""

import copy
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from ppo_lm.base_setup import EMBEDDED_MODEL
from ppo_lm.data.encoding import encode_completion, encode_prompt, find_end_token, fit_prompt
from ppo_lm.errors import DataError

pytestmark = pytest.mark.fast

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }} (end){% endfor %}{% if add_generation_prompt "
    "%}[assistant]{% endif %}"
)
TALK = [{"role": "user", "content": "My boss yelled. I left. What now?"}]


@pytest.fixture(scope="module")
def plain():
    return AutoTokenizer.from_pretrained(EMBEDDED_MODEL)


@pytest.fixture
def chat(plain):
    tokenizer = copy.deepcopy(plain)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_a_prompt_ends_where_the_assistant_begins(chat):
    assert chat.decode(encode_prompt(chat, TALK)) == "[user] My boss yelled. I left. What now? (end)[assistant]"
    assert encode_prompt(chat, "My boss") == chat("My boss")["input_ids"]


def test_the_end_token_of_a_chat_is_the_one_its_template_writes(chat):
    end = chat("(end)", add_special_tokens=False)["input_ids"][-1]
    assert find_end_token(chat, [1, end], TALK) == end
    assert find_end_token(chat, [1, end], "a text") == 1
    assert find_end_token(chat, [1], TALK) == 1
    assert encode_completion(chat, "I quit.", end)[-1] == end


def test_without_a_template_one_sentence_says_so(plain):
    with pytest.raises(DataError, match="is a conversation, but the model's tokenizer has no chat template"):
        encode_prompt(plain, TALK)
    assert find_end_token(plain, [1, 5], TALK) == 1


def test_a_template_that_refuses_is_quoted(chat):
    chat.chat_template = "{{ raise_exception('Only one system message, please.') }}"
    with pytest.raises(
        DataError, match="a conversation that the model's chat template rejects: Only one system message, please"
    ):
        encode_prompt(chat, TALK)


def test_a_long_conversation_is_cut_in_its_last_turn(chat):
    whole = len(encode_prompt(chat, TALK))
    base = SimpleNamespace(tokenizer=chat, allow_special_tokens=False)
    shorter = fit_prompt(base, TALK, whole - 1)
    assert shorter == [{"role": "user", "content": "My boss yelled. I left."}]
    assert len(encode_prompt(chat, shorter)) <= whole - 1
    assert fit_prompt(base, TALK, 0) is TALK and fit_prompt(base, TALK, whole) == TALK
    assert fit_prompt(base, TALK, 3) is None
