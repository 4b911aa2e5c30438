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
        row = {}
    is_record = isinstance(row, dict) and isinstance(row.get("step"), int)
    if not is_record or (file.name == METRICS and not _is_of_numbers(row)):
        raise UserError(f"{file}, line {number} is damaged: it is not the record of a step; remove the line")
    return row


def parse_rows(file: Path, text: str) -> tuple[list[dict], str]:
    """The rows in the text of such a file, and what a last line that is not whole has. Raises `UserError`."""
    *lines, torn = text.split("\n")
    return [read_row(file, number, line) for number, line in enumerate(lines, start=1)], torn


def _is_of_numbers(row: dict) -> bool:
    return all(value is None or isinstance(value, (int, float)) for name, value in row.items() if name not in TEXTS)


def null_as_nan(row: dict) -> dict:
    """A row of metrics.jsonl with the NaNs that `to_json` wrote as null."""
    return {key: math.nan if value is None else value for key, value in row.items()}
