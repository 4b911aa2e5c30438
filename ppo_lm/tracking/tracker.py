"""What experiment trackers have in common: everything is sent to them once, however often a run is resumed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path

from ppo_lm.config.output_folder import HELD_OUT, SAMPLES, TRACKERS
from ppo_lm.data.examples import show_prompt
from ppo_lm.health import Finding
from ppo_lm.reading import Unreadable, read_json
from ppo_lm.saving import write_json
from ppo_lm.tracking.events import EvaluationDone, RunStart, SamplesDrawn, StepDone, StepSkipped
from ppo_lm.tracking.files import read_records
from ppo_lm.tracking.recorder import Recorder
from ppo_lm.tracking.series import series_of_evaluation, series_of_row

PROJECT = "ppo_lm"  # unless the tracker's own variables name another
SAMPLES_TABLE = "samples"  # its name, and with EVALUATION/ before it that of held-out samples
SHOWN = 8  # samples in a table
NONE_YET = -1  # before the evaluation at step 0


class Tracker(Recorder, ABC):
    """Sends a run to an experiment tracker: every metric by step, the means of evaluations as `EVALUATION/METRIC`,
    tables of samples, and findings and skipped steps as alerts.

    A resumed run repeats the steps after its checkpoint, bit for bit. `open` says what the tracker already holds: that
    is not sent again, and what it lacks of the steps before the checkpoint is sent first. So nothing is missing after a
    kill, and a tracker that is added when a run is resumed gets all of its numbers.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.held: Mapping[str, int] = {}
        self.step_done = 0

    @abstractmethod
    def open(self, event: RunStart, folder: Path) -> Mapping[str, int]:
        """Open the tracker's run, or continue it, and send the settings. Returns the last step that it holds of each
        series and table."""

    @abstractmethod
    def scalars(self, numbers: Mapping[str, float], step: int) -> None:
        """Send a point of each series."""

    @abstractmethod
    def table(self, name: str, rows: Sequence[Mapping[str, object]], step: int) -> None:
        """Send a table of texts and numbers; the rows have the same columns."""

    @abstractmethod
    def alert(self, kind: str, text: str, step: int) -> None:
        """Send a warning. `kind`: health or skipped."""

    def start(self, event: RunStart) -> None:
        """Open the run, and send what is missing of its history."""
        if event.folder is None:
            self.notes = [f"{type(self).__name__}: nothing is sent, because output_dir is not set"]
            return
        self.held = self.open(event, event.folder)
        self.is_open, self.step_done = True, event.done
        for row in event.history:
            self._send(series_of_row(row), row["step"])
        if event.done:
            for name, drawn in recorded_samples(event.folder):
                self._send_table(name, drawn)

    def step(self, event: StepDone) -> None:
        """A point of each series."""
        self.step_done = event.step
        self._send(event.metrics, event.step)

    def skipped(self, event: StepSkipped) -> None:
        """An alert with the reason."""
        self.step_done = event.step
        self._alert("skipped", event.reason)

    def samples(self, event: SamplesDrawn) -> None:
        """A table of the first few responses."""
        self._send_table(SAMPLES_TABLE, event)

    def evaluation(self, event: EvaluationDone) -> None:
        """A point of each series, and a table of held-out responses."""
        for name, means in event.means.items():
            self._send(series_of_evaluation(name, means), event.step)
        for name, drawn in event.samples.items():
            self._send_table(f"{name}/{SAMPLES_TABLE}", drawn)

    def finding(self, event: Finding) -> None:
        """An alert."""
        self._alert("health", event.text)

    def _send(self, numbers: Mapping[str, float], step: int) -> None:
        lacking = {name: value for name, value in numbers.items() if self._lacks(name, step)}
        if lacking:
            self.scalars(lacking, step)

    def _send_table(self, name: str, drawn: SamplesDrawn) -> None:
        if self._lacks(name, drawn.step):
            rows = [
                {
                    "step": drawn.step,
                    "prompt": show_prompt(prompt),
                    "completion": text,
                    "score": score,
                    **{part: scores[place] for part, scores in drawn.parts.items()},
                }
                for place, (prompt, text, score) in enumerate(
                    zip(drawn.prompts[:SHOWN], drawn.completions, drawn.scores)
                )
            ]
            self.table(name, rows, drawn.step)

    def _alert(self, kind: str, text: str) -> None:
        if self.is_open:
            self.alert(kind, text, self.step_done)

    def _lacks(self, name: str, step: int) -> bool:
        return self.is_open and step > self.held.get(name, NONE_YET)


def recorded_samples(folder: Path) -> Iterator[tuple[str, SamplesDrawn]]:
    """The tables of a run, from its files: (name, samples), step by step."""
    for file in (folder / SAMPLES, folder / HELD_OUT):
        for (step, evaluation), rows in groupby(read_records(file), key=_table_of):
            some = list(islice(rows, SHOWN))
            yield (
                SAMPLES_TABLE if evaluation is None else f"{evaluation}/{SAMPLES_TABLE}",
                SamplesDrawn(
                    step,
                    [row["prompt"] for row in some],
                    [row["completion"] for row in some],
                    [row["score"] for row in some],
                    {part: [row["rewards"][part] for row in some] for part in some[0]["rewards"]},
                ),
            )


def _table_of(row: Mapping) -> tuple[int, str | None]:
    return row["step"], row.get("evaluation")


def last_steps(points: Iterable[tuple[Iterable[str], int]]) -> dict[str, int]:
    """The last step of each series, from the names and the step of each row."""
    last: dict[str, int] = {}
    for names, step in points:
        last.update({name: max(step, last.get(name, step)) for name in names})
    return last


def history_of(event: RunStart) -> dict[str, int]:
    """The last step of each series and table in the record of a run, for a tracker that cannot be asked what it
    holds."""
    tables = recorded_samples(event.folder) if event.folder and event.done else ()
    return {
        **last_steps((series_of_row(row), row["step"]) for row in event.history),
        **last_steps(([name], drawn.step) for name, drawn in tables),
    }


def remembered(folder: Path, tracker: str, new: Callable[[], str]) -> str:
    """The name by which the tracker knows the run in `folder`: as in its `TRACKERS` file, or else a `new` one, which is
    kept there before anything is sent."""
    known = _read(folder)
    if tracker not in known:
        known[tracker] = new()
        write_json(folder / TRACKERS, known)
    return known[tracker]


def _read(folder: Path) -> dict[str, str]:
    try:
        known = read_json(folder / TRACKERS)
    except Unreadable:
        return {}
    return known if isinstance(known, dict) else {}
