"""What the records of all kinds of runs share: a screen, and a locked folder with config.yaml, data_report.json and
metrics.jsonl."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from ppo_lm.config.settings import Settings
from ppo_lm.data import DataReport
from ppo_lm.tracking.run_folder import (
    append_record,
    clock,
    drop_later_steps,
    lock_run_folder,
    make_run_folder,
    write_config,
    write_json,
)


class Log:
    """Keeps a run in a folder of its own at or next to `output_dir`, or, with `resume`, in that of a run that was
    paused. None: it only prints; `quiet`: it only writes. No other process can write there until `close`."""

    def __init__(
        self, config: Settings, output_dir: str | None, quiet: bool = False, *, resume: tuple[Path, int] | None = None
    ):
        """`resume`: the folder, and the step it was saved after; what was recorded later is dropped, and `rows` are the
        metrics left."""
        self.console = Console(quiet=quiet, highlight=False)
        self.started = time.monotonic()
        self.folder, self._lock, self.rows = None, None, []
        if resume is not None:
            self.folder = resume[0].expanduser()
            self._lock = lock_run_folder(self.folder)
            self.rows = drop_later_steps(self.folder, resume[1])
        elif output_dir:
            self.folder, self._lock = make_run_folder(Path(output_dir).expanduser())
            write_config(self.folder, config)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def data(self, *reports: DataReport) -> None:
        """Print the reports of what is about to be trained on, and keep them."""
        for report in reports:
            self.say("\n".join(report.lines()))
        if self.folder:
            write_json(self.folder / "data_report.json", [report.as_dict() for report in reports])

    def warn(self, sentences: Sequence[str]) -> None:
        for sentence in sentences:
            self.say(sentence)

    def record(self, row: dict) -> None:
        """Keep a row of metrics."""
        self.append("metrics.jsonl", row)

    def append(self, name: str, record: dict) -> None:
        """Add a line to one of the folder's .jsonl files."""
        if self.folder:
            append_record(self.folder / name, record)

    def say_where(self) -> None:
        """How long it took, and where everything is."""
        if self.folder:
            self.say(f"Run took {clock(time.monotonic() - self.started)}. Written to {self.folder}:")
            for path in sorted(self.folder.iterdir()):
                if not path.name.startswith("."):
                    self.say(f"  {path.name}{'/' if path.is_dir() else ''}")

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            with suppress(OSError):  # Windows deletes no open file
                os.unlink(self._lock.lock_file)
            self._lock.release()
