"""Files as text, up to a size."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LARGEST_FILE = 2**29  # bytes of a file that is read at once
LONGEST_LINE = 2**26  # bytes of a line in a file that is read line by line


class Unreadable(ValueError):
    """Why a file or text cannot be read, worded to follow its name."""


class Missing(Unreadable):
    """There is no such file."""


def read_text(file: Path, largest: int = LARGEST_FILE, errors: str = "strict") -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises `Unreadable` unless it is a file of at most `largest`
    bytes; with `errors` "strict", also if it is not UTF-8."""
    with _opened(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        if size > largest:
            raise Unreadable(f"has {size:,} bytes, more than the limit of {largest:,}")
        return decoded(opened.read(size), errors)


def read_lines(file: Path, errors: str = "strict") -> Iterator[str]:
    """The lines of a UTF-8 file, however large, without a byte order mark and line ends. Raises `Unreadable` like
    `read_text`, and for a line of more than `LONGEST_LINE` bytes."""
    number = 0
    with _opened(file) as opened:
        while line := opened.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise Unreadable(f"has more than {LONGEST_LINE:,} bytes in line {number}, so it has no lines of text")
            yield decoded(line, errors, number).removesuffix("\n").removesuffix("\r")


def decoded(content: bytes, errors: str = "strict", line: int | None = None) -> str:
    """UTF-8 as text, without a byte order mark. Raises `Unreadable` if it is not UTF-8, naming the line: `line`, or the
    one in `content`."""
    try:
        return content.decode("utf-8-sig" if line in (None, 1) else "utf-8", errors=errors)
    except UnicodeDecodeError as error:
        number = line or content.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"is not UTF-8 (line {number})") from None


def _opened(file: Path) -> BinaryIO:
    """Open a regular file: a pipe or a device could block for ever."""
    try:
        kind = os.stat(file).st_mode
        if stat.S_ISDIR(kind):
            raise Unreadable("is a folder, not a file")
        if not stat.S_ISREG(kind):
            raise Unreadable("is not a regular file")
        return file.open("rb")
    except FileNotFoundError:
        raise Missing("does not exist") from None
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    except ValueError:  # a null character, or a surrogate
        raise Unreadable("is not the path of a file") from None
