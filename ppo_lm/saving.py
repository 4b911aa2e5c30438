"""Files that are replaced atomically, whole folders too, or appended line by line. Imports no torch."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ppo_lm.errors import writing

LONE_SURROGATES = "backslashreplace"  # UTF-8 has none; these escapes are those of JSON


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A file to write into, which replaces `file` at the end of the block: even if this process is killed, readers see
    the old content or the new one, never a part. Raises `StorageError`, and leaves the old one, if it cannot be
    written."""
    unfinished = unfinished_name(file)
    try:
        with writing(file):
            yield unfinished
            os.replace(unfinished, file)
    except BaseException:
        with suppress(OSError):  # the error itself matters more
            remove(unfinished)
        raise


def write_text(file: Path, text: str) -> None:
    """Replace a text file atomically."""
    with whole_file(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors=LONE_SURROGATES)


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A folder to write into, which replaces the folder `place` once it is whole and on disk. Raises `StorageError`,
    and leaves the old one, if it cannot be written."""
    unfinished = unfinished_name(place)
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
    aside = unfinished_name(folder.with_name(f"{folder.name}.former"))
    remove(aside)  # of a process that was killed
    if folder.is_dir():
        os.replace(folder, aside)
    return aside


def unfinished_name(path: Path) -> Path:
    """The hidden name under which a file or a folder is written until it is whole."""
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


def escaped(text: str) -> str:
    """JSON that UTF-8 can encode: lone surrogates become its escapes for them."""
    return text.encode("utf-8", LONE_SURROGATES).decode("utf-8")


def append_record(file: Path, record: dict) -> None:
    """Append a line to a .jsonl file."""
    with writing(file), file.open("a", encoding="utf-8", errors=LONE_SURROGATES) as lines:
        lines.write(to_json(record) + "\n")
