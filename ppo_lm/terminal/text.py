"""Texts without control characters, times, and curves made of characters."""

from __future__ import annotations

import re
from collections.abc import Sequence

# C0 except newline and tab, DEL, C1, marks and overrides of direction, line and paragraph separators, lone surrogates
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-=+*#@"
CURVE_WIDTH = 30  # characters


def printable(text: str) -> str:
    """`text` with every character that could steer a terminal, or that cannot be encoded, as an escape such as
    ``\\x1b``. For whatever prints texts of data, models, files or other people's code."""
    return UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text.replace("\r\n", "\n"))


def clock(seconds: float) -> str:
    """Minutes and seconds, "2:05"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def wrapped(text: str, width: int) -> str:
    """`text` with its lines broken at spaces, so that they fit into `width` columns, and indented as they were. As in
    Markdown, a line that is indented by four spaces or more stays in one piece: a command to copy, for example."""
    return "\n".join(_wrapped(line, width) for line in text.split("\n"))


def _wrapped(line: str, width: int) -> str:
    from rich.cells import cell_len

    words = line.lstrip(" ").split(" ")
    indent = " " * (len(line) - len(" ".join(words)))
    if len(indent) >= 4:
        return line
    rows = [indent + words[0]]
    for word in words[1:]:
        longer = f"{rows[-1]} {word}"
        if cell_len(longer) <= width:
            rows[-1] = longer
        else:
            rows.append(indent + word)
    return "\n".join(rows)


def sparkline(values: Sequence[float | None], width: int = CURVE_WIDTH, bars: str = BARS) -> str:
    """A curve of at most `width` characters, each the mean of its share of the values, from the lowest to the highest;
    a space where nothing is known. `bars`: the characters, lowest first."""
    count = min(width, len(values))
    shares = [values[place * len(values) // count : (place + 1) * len(values) // count] for place in range(count)]
    means = [_mean_of_known(share) for share in shares]
    low, high = (edge((mean for mean in means if mean is not None), default=0.0) for edge in (min, max))
    scale = (len(bars) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if mean is None else bars[round((mean - low) * scale)] for mean in means)


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
