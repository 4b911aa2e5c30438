"""The folder of a run, and the files every kind of run writes into it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save_file

from ppo_lm.config.files import dump_settings
from ppo_lm.config.settings import Settings
from ppo_lm.errors import ConfigError, StorageError, UserError, first_line, writing

LOCK = ".lock"


def check_output_dir(output_dir: str) -> None:
    """Raise `ConfigError` unless the folder exists or can be made, and can be written to."""
    folder = Path(output_dir).expanduser()
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError([f"output_dir is {output_dir!r}, but {there} is a file; name a folder"])
    if not os.access(there, os.W_OK):
        raise ConfigError([f"output_dir is {output_dir!r}, but {there} cannot be written to; name another folder"])


def make_run_folder(wanted: Path) -> tuple[Path, FileLock]:
    """Make and lock `wanted`, or `wanted-2`, `wanted-3`, … if a run is in it already: no run overwrites another."""
    number = 1
    while True:
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if not _is_taken(folder):
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            lock = _lock(folder)
            if lock and not _is_taken(folder):
                return folder, lock
        number += 1


def lock_run_folder(folder: Path) -> FileLock:
    """Lock the folder of a run to go on with. Raises `UserError` if a process is at work in it."""
    lock = _lock(folder)
    if lock is None:
        raise UserError(f"{folder} is in use by another process; wait for its end, or stop it")
    return lock


def _is_taken(folder: Path) -> bool:
    return folder.exists() and any(path.name != LOCK for path in folder.iterdir())


def _lock(folder: Path) -> FileLock | None:
    """Hold the folder until `release`, or the end of the process; None if another holds it."""
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        with writing(lock.lock_file):
            lock.acquire()
    except StorageError as error:
        if isinstance(error.__cause__, Timeout):  # which is an OSError
            return None
        raise
    return lock


def write_config(folder: Path, config: Settings) -> None:
    """Write `config.yaml`, which `--config` reads."""
    write_text(folder / "config.yaml", dump_settings(config))


def write_text(file: Path, text: str) -> None:
    """Replace a file at once: a reader, and a process that is killed, sees the old one or the new one whole."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    with writing(file):
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, file)


def write_json(file: Path, content) -> None:
    write_text(file, json.dumps(content, indent=1, default=str) + "\n")


def write_tensors(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """As safetensors."""
    with writing(file):
        save_file(
            {
                name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in tensors.items()
            },
            file,
        )


def append_record(file: Path, record: dict) -> None:
    """Add a line to a .jsonl file."""
    with writing(file), file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record, ensure_ascii=False) + "\n")


def drop_later_steps(folder: Path, step: int) -> list[dict]:
    """Cut metrics.jsonl and samples.jsonl back to what was recorded up to `step`; a last line that was torn in writing
    goes too. Returns the metrics left."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        file = folder / name
        *lines, torn = _text_of(file).split("\n") if file.is_file() else [""]
        records = [_read_record(file, number, line) for number, line in enumerate(lines, start=1)]
        kept = [record for record in records if record["step"] <= step]
        if len(kept) < len(records) or torn:
            write_text(file, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))
        if name == "metrics.jsonl":
            metrics = kept
    return metrics


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {first_line(error)}") from None


def _read_record(file: Path, number: int, line: str) -> dict:
    try:
        record = json.loads(line)
        if not isinstance(record["step"], int):
            raise TypeError("step is no whole number")
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{file}, line {number} is damaged: it holds no record of a step; take the line out, and resume again"
        ) from None
    return record


def clock(seconds: float) -> str:
    """Minutes and seconds, "2:05"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
