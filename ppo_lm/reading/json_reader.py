"""JSON, up to a size, a depth and a number of digits."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

from ppo_lm.reading.files import LARGEST_FILE, Unreadable, decoded, read_text

DEEPEST = 64  # lists and objects inside one another
TOO_DEEP = f"is nested more than {DEEPEST} deep"
MOST_DIGITS = 300  # of a whole number, so that a float can hold it
NOT_BRACKETS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[^][{}"]+', re.DOTALL)


def parse_json(text: str | bytes, *, allow_nan: bool = False) -> Any:
    """The value that JSON describes. `allow_nan`: accept NaN, Infinity, and numbers beyond the largest float. Raises
    `Unreadable` for anything that is not JSON in UTF-8, and beyond the limits on depth and digits."""
    text = decoded(text) if isinstance(text, bytes) else text.removeprefix("\ufeff")
    if not text.strip():
        raise Unreadable("is empty")
    if _is_too_deep_to_parse(text):
        raise Unreadable(TOO_DEEP)
    hooks = {} if allow_nan else {"parse_float": _finite, "parse_constant": _refuse}
    try:
        return json.loads(text, parse_int=_whole, **hooks)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise Unreadable(f"is not JSON: {error.msg} at {line}column {error.colno}") from None


def read_json(file: Path, *, largest: int = LARGEST_FILE, allow_nan: bool = False) -> Any:
    """The value in a JSON file. Raises `Unreadable` like `read_text` and `parse_json`."""
    return parse_json(read_text(file, largest), allow_nan=allow_nan)


def _is_too_deep_to_parse(text: str) -> bool:
    """Whether JSON is nested more than `DEEPEST` deep. Told from its brackets, because a parser that recurses until
    Python stops it leaves no room for the finalisers of objects that are collected in the meantime."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return False
    steps = (1 if bracket in "[{" else -1 for bracket in NOT_BRACKETS.sub("", text))
    return max(itertools.accumulate(steps), default=0) > DEEPEST


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise Unreadable(f"has a number with {len(digits):,} digits, more than the limit of {MOST_DIGITS}")
    return int(digits)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise Unreadable(f"has the number {number:.20}, which is too large")
    return value


def _refuse(constant: str) -> float:
    raise Unreadable(f"has {constant}, which is not JSON")


def is_too_deep(value: object) -> bool:
    """Whether a plain value is nested more than `DEEPEST` deep."""
    level = [value]
    for _ in range(DEEPEST + 1):
        inner = [
            each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list, tuple))
        ]
        level = [each for values in inner for each in values]
        if not level:
            return False
    return True
