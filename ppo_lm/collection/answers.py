"""A person's answers: appended to a file and flushed to disk one by one, so that nothing is lost if the program
dies."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ppo_lm.errors import DataError
from ppo_lm.reading import Unreadable, parse_json
from ppo_lm.run.folder import ANSWERS

CHOICES = ("a", "b", "tie", "skip")
READ_BACK = {"task", "repeat_of", "prompt", "first", "second", "preferred", "annotator"}


class AnswerStore:
    """`answers.jsonl` with every answer in order, and `preferences.jsonl` with those that `ppo-lm reward` reads: A or
    B, each pair once."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.export = folder / ANSWERS, folder / "preferences.jsonl"
        if not self.file.exists() and self.export.exists() and self.export.stat().st_size:
            raise DataError(
                f"{self.export} exists without answers.jsonl, so it was not written by `ppo-lm collect` and would be "
                "overwritten; choose another output_dir"
            )
        self.answers = self._read()
        fresh = self.export.with_suffix(".unfinished")
        fresh.write_text("".join(_line(p) for p in map(preference_of, self.answers) if p), encoding="utf-8")
        os.replace(fresh, self.export)

    def add(self, answer: dict) -> None:
        """Store an answer; once this returns, it is on disk."""
        _append(self.file, _line(answer))
        self.answers.append(answer)
        preference = preference_of(answer)
        if preference:
            _append(self.export, _line(preference))

    def agreement(self) -> tuple[int, int]:
        """(repeated pairs judged the same both times, repeated pairs judged both times); skipped ones do not count."""
        first = {answer["task"]: answer for answer in self.answers}
        pairs = [
            (first[a["repeat_of"]]["preferred"], a["preferred"]) for a in self.answers if a["repeat_of"] is not None
        ]
        judged = [(before, now) for before, now in pairs if before is not None and now is not None]
        return sum(before == now for before, now in judged), len(judged)

    def _read(self) -> list[dict]:
        """The stored answers. A half-written last line was never confirmed, and is removed."""
        if not self.file.is_file():
            return []
        whole, newline, rest = self.file.read_bytes().rpartition(b"\n")
        if rest:
            with self.file.open("r+b") as file:
                file.truncate(len(whole) + len(newline))
        answers = []
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                answer = parse_json(line)
                if not isinstance(answer, dict) or not answer.keys() >= READ_BACK:
                    raise Unreadable("is not an answer")
            except Unreadable as error:
                raise DataError(f"answers {str(self.file)!r}: line {number} {error}; fix or remove the line") from None
            answers.append(answer)
        return answers


def preference_of(answer: dict) -> dict | None:
    """The comparison in an answer; None for a tie, a skip or a repeated pair."""
    if answer["preferred"] not in ("first", "second") or answer["repeat_of"] is not None:
        return None
    chosen, rejected = (
        (answer["first"], answer["second"]) if answer["preferred"] == "first" else (answer["second"], answer["first"])
    )
    return {"prompt": answer["prompt"], "chosen": chosen, "rejected": rejected, "source": answer["annotator"]}


def _line(record: dict) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _append(file: Path, line: str) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.write(line)
        out.flush()
        os.fsync(out.fileno())
