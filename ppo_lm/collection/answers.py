"""A person's answers: appended to a file and flushed to disk one by one, so that nothing is lost if the program dies or
the disk is full."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from ppo_lm.errors import DataError, first_line, writing
from ppo_lm.reading import Unreadable, parse_json
from ppo_lm.run.folder import ANSWERS
from ppo_lm.saving import LONE_SURROGATES, flush, write_text

CHOICES = ("a", "b", "tie", "skip")
READ_BACK = {  # the types of what is read back
    "task": int,
    "repeat_of": int | None,
    "prompt": str | list,
    "first": str,
    "second": str,
    "preferred": str | None,
    "annotator": object,
}


class AnswerStore:
    """`answers.jsonl` with every answer in order, and `preferences.jsonl` with those that `ppo-lm reward` reads: A or
    B, each pair once. `notices`: what was repaired, a sentence each."""

    def __init__(self, folder: Path):
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.file, self.export = folder / ANSWERS, folder / "preferences.jsonl"
        if not self.file.exists() and self.export.exists() and self.export.stat().st_size:
            raise DataError(
                f"{self.export} exists without answers.jsonl, so it was not written by `ppo-lm collect` and would be "
                "overwritten; choose another output_dir"
            )
        self.notices: list[str] = []
        self.answers = self._read()
        write_text(self.export, "".join(_line(p) for p in map(preference_of, self.answers) if p))
        self._stored, self._exported = ConfirmedLines(self.file), ConfirmedLines(self.export)

    def add(self, answer: dict) -> None:
        """Store an answer; once this returns, it is on disk. Raises `StorageError`, with nothing stored, if the disk
        is full."""
        preference = preference_of(answer)
        written = {self._stored: _line(answer)} | ({self._exported: _line(preference)} if preference else {})
        try:
            ends = [lines.write(line) for lines, line in written.items()]
        except BaseException:
            for lines in written:
                lines.cut()
            raise
        for lines, end in zip(written, ends):
            lines.end = end
        self.answers.append(answer)

    def agreement(self) -> tuple[int, int]:
        """(repeated pairs judged the same both times, repeated pairs judged both times); skipped ones, and those whose
        first answer was removed from the file, do not count."""
        first = {answer["task"]: answer for answer in self.answers}
        pairs = [(first[a["repeat_of"]]["preferred"], a["preferred"]) for a in self.answers if a["repeat_of"] in first]
        judged = [(before, now) for before, now in pairs if before is not None and now is not None]
        return sum(before == now for before, now in judged), len(judged)

    def _read(self) -> list[dict]:
        """The stored answers. A half-written last line was never confirmed, and is removed."""
        if not self.file.is_file():
            return []
        try:
            whole, newline, torn = self.file.read_bytes().rpartition(b"\n")
        except OSError as error:
            raise DataError(f"answers {str(self.file)!r} cannot be read: {first_line(error)}") from None
        lines = whole.split(b"\n") if whole else []
        answers = [self._read_answer(number, line) for number, line in enumerate(lines, start=1)]
        if torn:
            with writing(self.file):
                os.truncate(self.file, len(whole) + len(newline))
            self.notices.append(
                f"the last line of {self.file} was incomplete, so that answer was never confirmed; it is removed, and "
                f"the {len(answers)} answers before it are kept"
            )
        return answers

    def _read_answer(self, number: int, line: bytes) -> dict:
        try:
            answer = parse_json(line)
            if not _is_answer(answer):
                raise Unreadable("is not an answer")
        except Unreadable as error:
            raise DataError(f"answers {str(self.file)!r}: line {number} {error}; fix or remove the line") from None
        return answer


def _is_answer(found: object) -> bool:
    """Whether it has all that is read back, in the right types."""
    return isinstance(found, dict) and all(
        name in found and isinstance(found[name], kind) for name, kind in READ_BACK.items()
    )


class ConfirmedLines:
    """A file of lines that are on disk, up to `end`. Whatever follows was never confirmed: the next line replaces
    it."""

    def __init__(self, file: Path):
        self.file = file
        self.end = file.stat().st_size if file.exists() else 0

    def write(self, line: str) -> int:
        """Write a line behind the end, and wait until it is on disk. Returns the end of the line. Raises
        `StorageError`."""
        content = line.encode(errors=LONE_SURROGATES)
        rest = memoryview(content)
        with writing(self.file):
            with self.file.open("ab", buffering=0) as out:  # a buffer would be written when it is closed, failed or not
                out.truncate(self.end)
                while rest:
                    rest = rest[out.write(rest) :]
                os.fsync(out.fileno())
            if self.end == 0:
                flush(self.file.parent)
        return self.end + len(content)

    def cut(self) -> None:
        """Remove what was never confirmed, if the disk lets us."""
        with suppress(OSError):
            os.truncate(self.file, self.end)


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
