"""A run in Trackio."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shlex
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppo_lm.tracking.events import RunStart
from ppo_lm.tracking.recorder import RECORDERS
from ppo_lm.tracking.tracker import PROJECT, Tracker, history_of, last_steps, remembered

if TYPE_CHECKING:
    import trackio

REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")  # Trackio's variables for places other than `TRACKIO_DIR`


@RECORDERS.register("trackio")
class Trackio(Tracker):
    """A Trackio run of the project `TRACKIO_PROJECT`, or else ppo_lm, where Trackio keeps its projects: in
    `TRACKIO_DIR`, or else in the cache of Hugging Face."""

    needs = ("trackio",)
    run: trackio.Run  # pyright: ignore[reportPrivateImportUsage] (its own documentation names it so)

    def open(self, event: RunStart, folder: Path) -> Mapping[str, int]:
        """Start the run, or continue it."""
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        project = os.environ.get("TRACKIO_PROJECT") or PROJECT
        name = remembered(folder, "trackio", lambda: _free_name(folder.name, SQLiteStorage.get_runs(project)))
        with _in_silence():
            self.run = trackio.init(project, name, config=dataclasses.asdict(event.config), resume="allow", embed=False)
        self.notes = [f"Trackio: run {name}; to look at it:\n    trackio show --project {shlex.quote(project)}"]
        if any(os.environ.get(variable) for variable in REMOTE):
            return history_of(event)
        return last_steps((row, row["step"]) for row in SQLiteStorage.get_logs(project, name))

    def scalars(self, numbers: Mapping[str, float], step: int) -> None:
        """One row."""
        self.run.log(dict(numbers), step)

    def table(self, name: str, rows: Sequence[Mapping[str, object]], step: int) -> None:
        """A table of Trackio."""
        import trackio

        values: list[list[Any]] = [list(row.values()) for row in rows]
        self.run.log({name: trackio.Table(columns=list(rows[0]) if rows else [], data=values)}, step)

    def alert(self, kind: str, text: str, step: int) -> None:
        """An alert."""
        with _in_silence():
            self.run.alert(kind, text, step=step)

    def close(self) -> None:
        """Write what is left."""
        import trackio

        if self.is_open:
            with _in_silence():
                trackio.finish()


def _free_name(wanted: str, taken: Container[str]) -> str:
    number, name = 1, wanted
    while name in taken:
        number += 1
        name = f"{wanted}-{number}"
    return name


@contextlib.contextmanager
def _in_silence() -> Iterator[None]:
    """Trackio prints to stdout."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
