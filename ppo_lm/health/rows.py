"""Rows of metrics.jsonl."""

from __future__ import annotations

import math


def null_as_nan(row: dict) -> dict:
    """A row of metrics.jsonl with the NaNs that `to_json` wrote as null."""
    return {key: math.nan if value is None else value for key, value in row.items()}
