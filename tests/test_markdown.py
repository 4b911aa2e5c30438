"""Whatever a text contains, a Markdown reader sees that text."""

import html
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ppo_lm.markdown import LONGEST, block, code, plain
from ppo_lm.terminal import printable

pytestmark = pytest.mark.fast
READER = MarkdownIt("commonmark", {"html": True}).enable("table")
TEXTS = st.text(st.sampled_from("ab `\\*_[]()<>#|~&!-+=.:/\"'\n\t1é\x1b"), min_size=1, max_size=40)


def shown(rendered: str) -> str:
    return html.unescape(re.sub(r"</?(p|code|td)>", "", rendered)).strip()


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_inline_texts_are_shown_as_they_are_on_one_line(text):
    line = printable(" ".join(text.split()))
    assert shown(READER.render(f"x {plain(text)}").removeprefix("<p>x")) == line
    found = READER.renderInline(f"x {code(text)} y")
    assert found.startswith("x <code>") and shown(found.removeprefix("x ").removesuffix(" y")) == line


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_a_block_holds_its_text(text):
    (token,) = READER.parse(block(text))
    assert token.type == "fence" and token.content.rstrip() == printable(text).rstrip()


def test_a_long_text_is_cut():
    assert code("a" * 100_000) == f"`{'a' * LONGEST}…`" and len(plain("*" * 100_000)) < 3 * LONGEST
