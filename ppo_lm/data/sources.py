"""Read records, each with its location, from a file, a folder, a hub data set or a Python list. A bad row does not
affect the others."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from ppo_lm.errors import DataError, first_line
from ppo_lm.reading import TOO_DEEP, Unreadable, is_too_deep, parse_json, read_lines, read_text, user_path
from ppo_lm.terminal.working import working

LONGEST_ROW = 1_000_000  # characters
SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".parquet")

Source = str | Sequence  # the name of a file, a folder or a data set; or its rows
Rows = Iterator[tuple[str, object]]  # (location, record), with a `RowProblem` in place of an unreadable record


class RowProblem(ValueError):
    """Why a row cannot be used, worded to follow the row's location."""


@dataclass(frozen=True)
class Dropped:
    """A row that was left out."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place} {self.reason}"


@dataclass
class Records:
    """What a source contains: (location, record) of every readable row, and the rows left out."""

    source: str
    rows: list[tuple[str, dict]] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    def add(self, place: str, record: object) -> None:
        """Add the record, or note why it cannot be used. A `RowProblem` passed in its place is noted as it is."""
        if isinstance(record, RowProblem):
            problem = str(record)
        elif not isinstance(record, dict):
            problem = f"is {_kind(record)}, not an object with named columns"
        else:
            problem = _problem_of(record)
            if problem is None:
                self.rows.append((place, record))
                return
        self.dropped.append(Dropped(place, problem))


def read_records(
    source: Source, role: str, text_column: str, split: str = "train", subset: str | None = None
) -> Records:
    """Read every row of `source`. Texts (a .txt line, a text or conversation in a list) become records with a single
    column, `text_column`.

    `role` names the setting in messages. Raises `DataError` for a source that is missing, empty, or of an unknown kind.
    """
    records = Records(source if isinstance(source, str) else f"a list of {len(source)}")
    for place, record in _rows(source, role, text_column, split, subset):
        records.add(place, record)
    if not records.rows and not records.dropped:
        raise DataError(f"{role} {records.source!r}: it has no rows")
    return records


def _rows(source: Source, role: str, text_column: str, split: str, subset: str | None) -> Rows:
    if not isinstance(source, str):
        for number, row in enumerate(source, start=1):
            yield f"row {number}", {text_column: row} if isinstance(row, (str, list)) else row
        return
    path = user_path(source, role, DataError)
    if path.is_dir():
        yield from _read_folder(path, role, text_column, split)
    elif path.suffix in SUFFIXES:
        yield from _read_file(path, role, text_column)
    elif path.exists():
        raise DataError(f"{role} {source!r}: this kind of file cannot be read; use {', '.join(SUFFIXES)}")
    else:
        yield from _numbered(_load_from_hub(source, role, split, subset), source)


def _read_file(file: Path, role: str, text_column: str) -> Rows:
    if not file.is_file():
        raise DataError(f"{role} {str(file)!r}: there is no such file")
    readers = {
        ".txt": _read_text,
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    try:
        yield from readers[file.suffix](file, role, text_column)
    except Unreadable as error:
        raise DataError(f"{role} {str(file)!r}: it {error}") from None
    except OSError as error:
        raise DataError(f"{role} {str(file)!r}: it cannot be read: {first_line(error)}") from None


def _lines_of(file: Path) -> Iterator[tuple[str, str]]:
    """(location, line) of every line that is not blank. Bytes that are not UTF-8 become lone surrogates, which
    `Records.add` detects."""
    for number, line in enumerate(read_lines(file, errors="surrogateescape"), start=1):
        if line.strip():
            yield f"{file}: line {number}", line


def _read_text(file: Path, role: str, text_column: str) -> Rows:
    for place, line in _lines_of(file):
        yield place, {text_column: line}


def _read_jsonl(file: Path, role: str, text_column: str) -> Rows:
    for place, line in _lines_of(file):
        yield place, _parse_json(line)


def _parse_json(line: str) -> object:
    if len(line) > LONGEST_ROW:
        return RowProblem(_too_long(len(line)))
    try:
        return parse_json(line, allow_nan=True)
    except Unreadable as error:
        return RowProblem(str(error))


def _read_json(file: Path, role: str, text_column: str) -> Rows:
    rows = parse_json(read_text(file, errors="surrogateescape"), allow_nan=True)
    if isinstance(rows, dict) and len(rows) == 1 and isinstance(next(iter(rows.values())), list):
        rows = next(iter(rows.values()))
    if not isinstance(rows, list):
        raise DataError(
            f"{role} {str(file)!r}: a .json file must hold a list of objects; use .jsonl for one object per line"
        )
    for number, row in enumerate(rows, start=1):
        yield f"{file}: row {number}", {text_column: row} if isinstance(row, str) else row


def _read_csv(file: Path, role: str, text_column: str) -> Rows:
    csv.field_size_limit(2**31 - 1)  # `Records.add` rejects long rows itself, and keeps the others
    lines = read_text(file, errors="surrogateescape").replace("\r\n", "\n").split("\n")
    header, place = None, 0
    while place < len(lines):
        reader = csv.reader((lines[i] + "\n" for i in range(place, len(lines))), strict=True)
        start = place
        try:
            for cells in reader:
                if not header:
                    header = cells
                elif cells and len(cells) != len(header):
                    yield (
                        f"{file}: line {start + 1}",
                        RowProblem(f"has {len(cells)} cells, but the header has {len(header)}"),
                    )
                elif cells:
                    yield f"{file}: line {start + 1}", dict(zip(header, cells))
                start = place + reader.line_num
            return
        except csv.Error as error:
            if not header:
                raise DataError(f"{role} {str(file)!r}: the header in line {start + 1} is not CSV: {error}") from None
            yield f"{file}: line {start + 1}", RowProblem(f"is not CSV: {error}")
            place = _end_of_bad_row(lines, start, place + reader.line_num)


def _end_of_bad_row(lines: list[str], start: int, read: int) -> int:
    """The line to continue from after a bad row that starts in line `start` and was read up to line `read`: after its
    last line with an unpaired quote or, if an unclosed quote swallowed the rest of the file, the next line."""
    if read >= len(lines):
        return start + 1
    return 1 + max((i for i in range(start + 1, read) if lines[i].count('"') % 2), default=start)


def _read_parquet(file: Path, role: str, text_column: str) -> Rows:
    """Read with pyarrow itself: `datasets` would read a file that was replaced within a tick of the clock from its
    cache."""
    _import_datasets(role, str(file))
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as parquet:
            rows = (row for batch in parquet.iter_batches() for row in batch.to_pylist())
            yield from _numbered(rows, str(file))
    except Exception as error:  # pyarrow raises many kinds of error
        raise DataError(f"{role} {str(file)!r}: it is not a readable Parquet file: {first_line(error)}") from None


def _read_folder(folder: Path, role: str, text_column: str, split: str) -> Rows:
    if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
        yield from _numbered(_load_saved(folder, role, split), str(folder))
        return
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise DataError(f"{role} {str(folder)!r}: the folder has no {', '.join(SUFFIXES)} file and no saved data set")
    for file in files:
        yield from _read_file(file, role, text_column)


def _load_saved(folder: Path, role: str, split: str) -> Iterable:
    datasets = _import_datasets(role, str(folder))
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(f"{role} {str(folder)!r}: the saved data set cannot be read: {first_line(error)}") from None
    if not isinstance(loaded, dict):
        return loaded
    if split not in loaded:
        raise DataError(
            f"{role} {str(folder)!r}: there is no split {split!r}; it has {', '.join(map(str, loaded))}; set data_split"
        )
    return loaded[split]


def _load_from_hub(name: str, role: str, split: str, subset: str | None) -> Iterable:
    datasets = _import_datasets(role, name)
    datasets.disable_progress_bars()  # they would fill a log
    try:
        with working(f"loading {name}"):
            return datasets.load_dataset(name, subset, split=split)
    except Exception as error:  # the hub client raises many kinds of error
        raise DataError(
            f"{role} {name!r}: there is no such file, and it cannot be loaded as a hub data set: {first_line(error)}"
        ) from None


def _import_datasets(role: str, name: str) -> ModuleType:
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{role} {name!r}: reading this needs the package datasets; install it with `pip install datasets`"
        ) from None
    return datasets


def _numbered(rows: Iterable, source: str) -> Rows:
    for number, row in enumerate(rows, start=1):
        yield f"{source}: row {number}", row


def _problem_of(record: dict) -> str | None:
    if is_too_deep(record):
        return TOO_DEEP
    texts = [text for value in record.values() for text in texts_in(value)]
    length = sum(map(len, texts))
    if length > LONGEST_ROW:
        return _too_long(length)
    if any("\0" in text for text in texts):
        return "is not UTF-8 (it contains null bytes); save the file as UTF-8"
    if any(
        "\ud800" <= character <= "\udfff"
        for text in (*texts, *map(str, record))
        if not text.isascii()
        for character in text
    ):
        return "is not UTF-8; save the file as UTF-8"
    if record and all(value is None for value in record.values()):
        return "is empty: every column is null"
    return None


def texts_in(value: object) -> Iterator[str]:
    """Every text in a plain value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_in(item)
    elif isinstance(value, dict):
        yield from texts_in(list(value.values()))


def _too_long(length: int) -> str:
    return f"has {length:,} characters, more than the limit of {LONGEST_ROW:,} per row"


def _kind(value: object) -> str:
    return {
        type(None): "null",
        list: "a list",
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }.get(type(value), type(value).__name__)
