"""Rows of metrics.jsonl."""

from __future__ import annotations

import math
from pathlib import Path

from ppo_lm.errors import UserError
from ppo_lm.reading import Unreadable, parse_json

METRICS = "metrics.jsonl"
TEXTS = ("dropped", "evaluation")  # what is text in its rows


def read_row(file: Path, number: int, line: str) -> dict:
    """The row in line `number` of metrics.jsonl or samples.jsonl. Raises `UserError` if it is not the record of a
    step."""
    try:
        row = parse_json(line, allow_nan=True)
    except Unreadable:
        row = None
    if (
        not isinstance(row, dict)
        or not isinstance(row.get("step"), int)
        or (file.name == METRICS and not _is_of_numbers(row))
    ):
        raise UserError(f"{file}, line {number} is damaged: it is not the record of a step; remove the line")
    return row


def _is_of_numbers(row: dict) -> bool:
    return all(value is None or isinstance(value, (int, float)) for name, value in row.items() if name not in TEXTS)


def null_as_nan(row: dict) -> dict:
    """A row of metrics.jsonl with the NaNs that `to_json` wrote as null."""
    return {key: math.nan if value is None else value for key, value in row.items()}
