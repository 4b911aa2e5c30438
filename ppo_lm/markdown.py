"""Text of users in Markdown: none of it becomes markup."""

from __future__ import annotations

import re

from ppo_lm.terminal import printable

LONGEST = 300  # characters of one piece of text
MARKUP = re.compile(r"[\\`*_{}\[\]<>#|~&!$@]")


def plain(text: str) -> str:
    """`text` on one line, for a paragraph, a list or a table."""
    return MARKUP.sub(r"\\\g<0>", _one_line(text))


def code(text: str) -> str:
    """`text` on one line, as inline code."""
    line = _one_line(text)
    fence = "`" * (_longest_run(line) + 1)
    space = " " if not line or "`" in (line[0], line[-1]) else ""
    return f"{fence}{space}{line}{space}{fence}"


def block(text: str, language: str = "") -> str:
    """`text`, which may have several lines, as a block of code."""
    fence = "`" * max(_longest_run(text) + 1, 3)
    return f"{fence}{language}\n{printable(text).rstrip()}\n{fence}"


def _one_line(text: str) -> str:
    line = printable(" ".join(text[: 2 * LONGEST].split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
