"""Hostile files and paths, by name: for tests of the readers, and for fuzzing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))

NOT_TEXT = {
    "not UTF-8": b"\xff\xfe\x00s",
    "UTF-16": "seed: 1".encode("utf-16"),
    "binary": bytes(range(256)),
}
JSON = {
    **NOT_TEXT,
    "empty": b"",
    "blank": b" \n ",
    "nested lists": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "nested and closed": b"[" * 900 + b"]" * 900,
    "ten million digits": b"9" * 10**7,
    "400 digits": b"[" + b"9" * 400 + b"]",
    "NaN": b'{"mean": NaN}',
    "infinity": b"[-Infinity]",
    "beyond the largest float": b"[1e999]",
    "cut off": b'{"a": [1, 2',
    "two values": b"{} {}",
}
YAML = {
    **NOT_TEXT,
    "billion laughs": LAUGHS.encode(),
    "an alias within itself": b"a: &a [*a]",
    "an unknown alias": b"a: *b",
    "nested lists": b"a: " + b"[" * 90_000,
    "nested mappings": b"{a: " * 20_000,
    "nested blocks": b"\n".join(b" " * depth + b"a:" for depth in range(300)),
    "many digits": b"seed: " + b"9" * 90_000,
    "many hexadecimal digits": b"seed: 0x" + b"f" * 90_000,
    "base sixty": b"seed: 1" + b":59" * 30_000,
    "too large": b"# " + b"x" * 10**7,
    "a key twice": b"seed: 1\nsteps: 2\nseed: 3\n",
    "an object of Python": b"seed: !!python/object/apply:os.system ['true']",
    "null character": b"seed: \x00",
    "a list as key": b"? [1]\n: 2",
    "cut off": b"seed: [1,",
}
PATHS: dict[str, str] = {
    "empty": "",
    "blank": "  ",
    "no such user": "~nosuchuser/folder",
    "a long name": "a" * 256,
    "a long path": "a/" * 3000,
    "null character": "a\0b",
    "lone surrogate": "a\udcffb",
}


def hostile_paths(folder: Path) -> dict[str, str]:
    """`PATHS`, and some that are made in `folder`."""
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "broken").symlink_to(folder / "nowhere")
    made = {"a loop of links": str(folder / "loop"), "a broken link": str(folder / "broken")}
    (folder / "locked").mkdir(mode=0)
    if not os.access(folder / "locked", os.R_OK):  # root reads everything
        made["a folder that may not be read"] = str(folder / "locked")
    return {**PATHS, **made}


HUGE_FILES: dict[str, Callable[[Path], None]] = {
    "a hole of 20 GB": lambda file: _hole(file, 20 * 2**30),
    "a pipe": os.mkfifo,
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "a folder": lambda file: file.mkdir(),
}
"""What makes a file that would take for ever, or all memory, to read."""


def _hole(file: Path, size: int) -> None:
    with file.open("wb") as opened:
        opened.truncate(size)
