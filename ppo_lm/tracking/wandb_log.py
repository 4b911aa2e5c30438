"""The rows in W&B's local files. Its library writes them, but reads them only to upload them.

A file is a header of 7 bytes and blocks of 32 KiB in the log format of LevelDB: records, each a protocol buffer, in
parts that have a checksum, their length, and whether they are whole, first, middle or last.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

HEADER = 7  # bytes, of a file and of a part
BLOCK = 2**15
WHOLE, FIRST, LAST = 1, 2, 4


def read_rows(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """What was logged, by name, oldest first; `_step` is the number of the row. A file that was cut off when its
    process was killed is read as far as it goes."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue] (made at run time)

    for file in sorted(files):
        for content in _records(file.read_bytes()):
            record = Record.FromString(content)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(log: bytes) -> Iterator[bytes]:
    place, record = HEADER, b""
    while place + HEADER <= len(log):
        left = BLOCK - place % BLOCK
        if left < HEADER:  # the end of a block is padded
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", log, place)
        part = log[place + HEADER : place + HEADER + size]
        if kind == 0 or len(part) < size:
            return
        place += HEADER + size
        record = part if kind in (WHOLE, FIRST) else record + part
        if kind in (WHOLE, LAST):
            yield record
