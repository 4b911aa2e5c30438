"""The pages of the documentation: their blocks of code, the commands in them, links and anchors."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

CHECKOUT = Path(__file__).parents[2]
PAGES = sorted(
    str(page.relative_to(CHECKOUT)) for where in ("", "docs", "configs") for page in (CHECKOUT / where).glob("*.md")
)
MARKDOWN = MarkdownIt("commonmark").enable("table")
SHELL = ("", "bash", "sh", "console")  # the languages of a block of commands


@dataclass(frozen=True)
class Block:
    """A fenced block. `line`: of its first line of code, from 1."""

    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def tokens(page: str) -> Iterator[Token]:
    """What a page consists of, in order, with what is inside paragraphs, headings and cells."""
    for token in MARKDOWN.parse((CHECKOUT / page).read_text(encoding="utf-8")):
        yield token
        yield from token.children or ()


def blocks(page: str, *languages: str) -> list[Block]:
    """The fenced blocks of a page, or those in the given languages."""
    found = [
        Block(page, token.map[0] + 2, (token.info.split() or [""])[0], token.content)
        for token in tokens(page)
        if token.type == "fence" and token.map
    ]
    return [block for block in found if block.language in languages] if languages else found


def inline_code(page: str) -> list[str]:
    """The code within the text of a page."""
    return [token.content for token in tokens(page) if token.type == "code_inline"]


def commands(text: str) -> list[list[str]]:
    """The words of each command in a text for the shell: a backslash continues a line, `&&`, `;` and `|` end a command.
    A text that the shell could not read has none."""
    found: list[list[str]] = []
    without_documents = re.sub(r"<<'(\w+)'\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    for line in without_documents.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        found.append([])
        try:
            for word in lexer:
                if set(word) <= set("&|;"):
                    found.append([])
                else:
                    found[-1].append(word)
        except ValueError:  # inline code such as `it's`
            found.pop()
    return [words for words in found if words]


def links(page: str) -> list[str]:
    """Where the links and pictures of a page lead."""
    found = [str(token.attrs.get("href") or token.attrs.get("src") or "") for token in tokens(page)]
    return [link for link in found if link]


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page: lower case, without punctuation, with hyphens for spaces; a
    repeated one is numbered."""
    found: dict[str, int] = {}
    stream = list(MARKDOWN.parse((CHECKOUT / page).read_text(encoding="utf-8")))
    for opening, heading in pairwise(stream):
        if opening.type == "heading_open":
            text = "".join(part.content for part in heading.children or () if part.type in ("text", "code_inline"))
            anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            count = found[anchor] = found.get(anchor, -1) + 1
            found[f"{anchor}-{count}" if count else anchor] = 0
    return set(found)
