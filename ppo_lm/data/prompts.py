"""Prompts to train on, with whatever other columns come with them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ppo_lm.errors import DataError, first_line

EMBEDDED_POSTS = 4096
SEED_EMBEDDED = 1
RESERVED = ("prompts", "completions", "terminated")  # what reward functions are given besides the columns


@dataclass(frozen=True)
class PromptSet:
    """N prompts, and columns of N values each that are passed on to reward functions."""

    prompts: list[str]
    columns: dict[str, list] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, rows: list[int]) -> PromptSet:
        """The prompts at `rows`, in that order."""
        return PromptSet([self.prompts[row] for row in rows], {name: [values[row] for row in rows] for name, values in self.columns.items()})

    def split(self, held_out: int, seed: int) -> tuple[PromptSet, PromptSet]:
        """(the rest, `held_out` prompts drawn with the seed, but never more than half of them)."""
        held_out = min(held_out, len(self) // 2)
        order = list(range(len(self)))
        random.Random(f"held out {seed}").shuffle(order)
        return self.select(order[held_out:]), self.select(order[:held_out])

    def batches(self, batch_size: int, seed: int) -> Iterator[PromptSet]:
        """Endless batches: every prompt once, in a seeded order, then all again in another; a batch may span two rounds."""
        rng, waiting = random.Random(f"batches {seed}"), []
        while True:
            while len(waiting) < batch_size:
                round_ = list(range(len(self)))
                rng.shuffle(round_)
                waiting += round_
            yield self.select(waiting[:batch_size])
            waiting = waiting[batch_size:]


def load_prompts(source: str, prompt_column: str = "prompt") -> PromptSet:
    """Load "embedded", a .txt file (a prompt a line), a .jsonl file (an object a line), or a hub data set's `train` split.

    Raises `DataError` naming the file, and the line where there is one, for what is missing, empty, not UTF-8 or malformed.
    """
    if source == "embedded":
        return _embedded_posts()
    file = Path(source).expanduser()
    if file.suffix == ".txt":
        records = [{prompt_column: line} for line in _lines(file) if line.strip()]
    elif file.suffix == ".jsonl":
        records = _parse_jsonl(file, prompt_column)
    elif file.exists():
        raise DataError(f"prompts {source!r}: only .txt (a prompt a line) and .jsonl (an object a line) files can be read")
    else:
        records = _load_from_hub(source, prompt_column)
    if not records:
        raise DataError(f"prompts {source!r}: there is no prompt in it; a .txt file has one a line, a .jsonl file one object a line")
    names = [name for name in records[0] if name != prompt_column and all(name in record for record in records)]
    reserved = [name for name in names if name in RESERVED]
    if reserved:
        raise DataError(f"prompts {source!r}: column {reserved[0]!r} has a name that reward functions get from ppo_lm; rename it")
    return PromptSet([record[prompt_column] for record in records], {name: [record[name] for record in records] for name in names})


def _lines(file: Path) -> list[str]:
    """Lines end at a newline and nowhere else: JSON strings may hold U+2028 and its like."""
    if not file.is_file():
        raise DataError(f"prompts {str(file)!r}: there is no such file")
    try:
        return file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        line = file.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(f"prompts {str(file)!r}: line {line} is not UTF-8 (byte {error.start}); save the file as UTF-8") from None


def _parse_jsonl(file: Path, prompt_column: str) -> list[dict]:
    records = []
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"prompts {str(file)!r}: line {number} is not JSON: {error.msg} at column {error.colno}") from None
        records.append(_check_record(record, prompt_column, f"prompts {str(file)!r}: line {number}"))
    return records


def _check_record(record, prompt_column: str, place: str) -> dict:
    if not isinstance(record, dict):
        raise DataError(f'{place} is {type(record).__name__}, not an object; write {{"{prompt_column}": "..."}}')
    if not isinstance(record.get(prompt_column), str) or not record[prompt_column]:
        raise DataError(f"{place} has no text in column {prompt_column!r}; it has {', '.join(record) or 'none'}; set prompt_column to the right one")
    return record


def _load_from_hub(name: str, prompt_column: str) -> list[dict]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(f"prompts {name!r}: loading a hub data set needs the package datasets; install it with `pip install datasets`") from None
    try:
        rows = load_dataset(name, split="train")
    except Exception as error:  # the hub client raises many kinds
        raise DataError(f"prompts {name!r}: there is no such file, and as a hub data set it cannot be loaded: {first_line(error)}") from None
    return [_check_record(row, prompt_column, f"prompts {name!r}: row {number}") for number, row in enumerate(rows)]


def _embedded_posts() -> PromptSet:
    from ppo_lm.embedded.posts import generate_posts

    posts = generate_posts(EMBEDDED_POSTS, SEED_EMBEDDED)
    return PromptSet([post.prompt for post in posts], {"facts": [post.facts for post in posts]})
