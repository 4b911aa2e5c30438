"""Text for people: nothing in it steers their terminal."""

from __future__ import annotations

import re

# C0 except newline and tab, DEL, C1, marks and overrides of direction, line and paragraph separators, lone surrogates
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with every character that could steer a terminal, or that cannot be encoded, as an escape such as
    ``\\x1b``. For whatever prints texts of data, models, files or other people's code."""
    return UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text.replace("\r\n", "\n"))
