"""The files of a run: replaced atomically, whole folders too, or appended line by line."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ppo_lm.errors import UserError, writing
from ppo_lm.fingerprint import fingerprint
from ppo_lm.health.rows import METRICS, null_as_nan, read_row
from ppo_lm.reading import Unreadable, read_text
from ppo_lm.tracking.events import EvaluationDone, RunStart, SamplesDrawn, StepDone, StepSkipped
from ppo_lm.tracking.recorder import RECORDERS, Recorder

SAMPLES = "samples.jsonl"
LONE_SURROGATES = "backslashreplace"  # UTF-8 has none; these escapes are those of JSON
UNFINISHED = ".*.unfinished"  # whatever a process was writing or removing when it was killed
LARGEST_RECORD = 2**34  # bytes of either; a long run that keeps every sample writes gigabytes


@RECORDERS.register("metrics")
class MetricsFile(Recorder):
    """`metrics.jsonl`, one row per step, skipped step and evaluation; and `data_report.json`."""

    folder: Path | None = None

    def start(self, event: RunStart) -> None:
        """Write the data report; a resumed run keeps its rows."""
        self.folder = event.folder
        if self.folder and event.reports:
            write_json(self.folder / "data_report.json", [report.as_dict() for report in event.reports])

    def step(self, event: StepDone) -> None:
        """A row of metrics."""
        self._append({"step": event.step, **event.metrics})

    def skipped(self, event: StepSkipped) -> None:
        """A row with the reason."""
        self._append({"step": event.step, "dropped": event.reason})

    def evaluation(self, event: EvaluationDone) -> None:
        """A row per evaluation."""
        for name, means in event.means.items():
            self._append({"step": event.step, "evaluation": name, **means})

    def _append(self, row: dict) -> None:
        if self.folder:
            append_record(self.folder / METRICS, row)


@RECORDERS.register("samples")
class SamplesFile(Recorder):
    """`samples.jsonl`, one row per response: prompt, completion, score and the parts of the score."""

    folder: Path | None = None

    def start(self, event: RunStart) -> None:
        """Remember where to write."""
        self.folder = event.folder

    def samples(self, event: SamplesDrawn) -> None:
        """A row per response."""
        if not self.folder:
            return
        for row, (prompt, text, score) in enumerate(zip(event.prompts, event.completions, event.scores)):
            parts = {name: values[row] for name, values in event.parts.items()}
            record = {"step": event.step, "prompt": prompt, "completion": text, "score": score, "rewards": parts}
            append_record(self.folder / SAMPLES, record)


def write_text(file: Path, text: str) -> None:
    """Replace a file atomically: even if this process is killed, readers see the old text or the new one, never a
    part."""
    unfinished = _unfinished(file)
    try:
        with writing(file):
            unfinished.write_text(text, encoding="utf-8", errors=LONE_SURROGATES)
            os.replace(unfinished, file)
    except BaseException:
        with suppress(OSError):  # the error itself matters more
            remove(unfinished)
        raise


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A folder to write into, which replaces the folder `place` once it is whole and on disk. Raises `StorageError`,
    and leaves the old one, if it cannot be written."""
    unfinished = _unfinished(place)
    try:
        with writing(place):
            remove(unfinished)  # of a process that was killed
            unfinished.mkdir(parents=True)
            yield unfinished
            for path in (*sorted(unfinished.rglob("*")), unfinished):
                flush(path)
            former = _set_aside(place)
            os.replace(unfinished, place)
            flush(place.parent)
            remove(former)
    except BaseException:
        with suppress(OSError):  # the error itself matters more
            remove(unfinished)
        raise


def flush(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there; a link is removed, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_whole(folder: Path) -> None:
    """Remove a folder: even if this process is killed, readers see all of it or nothing, never a part."""
    remove(_set_aside(folder))


def _set_aside(folder: Path) -> Path:
    """Rename a folder, if it is there, to a hidden name. Returns the hidden folder."""
    aside = _unfinished(folder.with_name(f"{folder.name}.former"))
    remove(aside)  # of a process that was killed
    if folder.is_dir():
        os.replace(folder, aside)
    return aside


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


def write_json(file: Path, content: object) -> None:
    """Replace a JSON file atomically."""
    write_text(file, to_json(content, indent=1, default=str) + "\n")


def to_json(content: object, **options: Any) -> str:
    """JSON that every reader takes: NaN and infinity, for which it has no words, become null."""
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_without_nan(content), ensure_ascii=False, allow_nan=False, **options)


def _without_nan(content: object) -> object:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    return [_without_nan(value) for value in content] if isinstance(content, (list, tuple)) else content


def write_tensors(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file."""
    with writing(file):
        save_file(
            {
                name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in tensors.items()
            },
            file,
        )


def append_record(file: Path, record: dict) -> None:
    """Append a line to a .jsonl file."""
    with writing(file), file.open("a", encoding="utf-8", errors=LONE_SURROGATES) as lines:
        lines.write(to_json(record) + "\n")


def drop_later_steps(folder: Path, step: int) -> list[dict]:
    """Truncate metrics.jsonl and samples.jsonl to what was recorded up to `step`, and remove a half-written last line.
    Returns the remaining rows of metrics.jsonl."""
    kept: dict[str, list[dict]] = {}
    for name in (METRICS, SAMPLES):
        file = folder / name
        *lines, torn = _text_of(file).split("\n") if file.is_file() else [""]
        records = [read_row(file, number, line) for number, line in enumerate(lines, start=1)]
        kept[name] = [record for record in records if record["step"] <= step]
        if len(kept[name]) < len(records) or torn:
            write_text(file, "".join(to_json(record) + "\n" for record in kept[name]))
    return [null_as_nan(row) for row in kept[METRICS]]


def recorded(folder: Path, up_to: int | None = None) -> str:
    """A hash of the lines of metrics.jsonl, on which a resumed run builds: all of them, or those up to a step."""
    file = folder / METRICS
    lines = _text_of(file).split("\n")[:-1] if file.is_file() else []
    if up_to is not None:
        steps = [read_row(file, number, line)["step"] for number, line in enumerate(lines, start=1)]
        lines = [line for line, step in zip(lines, steps, strict=True) if step <= up_to]
    return fingerprint(lines)


def _text_of(file: Path) -> str:
    try:
        return read_text(file, LARGEST_RECORD)
    except Unreadable as error:
        raise UserError(f"{file} cannot be read: it {error}") from None
