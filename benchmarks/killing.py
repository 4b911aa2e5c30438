"""Kill a run, or a collection, at random moments until it has ended, and compare it with an undisturbed one."""

from __future__ import annotations

import http.client
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from small_runs import Process, Together, differing, first_pair, judge, results

from ppo_lm.run import list_checkpoints, load_checkpoint
from ppo_lm.run.checkpoint import MANIFEST, is_finished, read_state
from ppo_lm.run.folder import CONFIG
from ppo_lm.tracking.files import METRICS

KILLS, WRITING, SAVING, EARLY = "kills", "writing", "final save", "before the first"
UNREADABLE, FAILED, DIFFERENT = "unreadable", "failed", "different"
FAULTS = (UNREADABLE, FAILED, DIFFERENT)
A_WRITE = 0.015  # seconds that a checkpoint takes, about


class Kind:
    """One kind of runs: the arguments of a new one but --output_dir."""

    def __init__(self, arguments: list[str], processes: int = 1):
        self.arguments, self.processes = arguments, processes

    def prepare(self, out: Path) -> None:
        """Make the folder as it is before the first process."""

    def command(self, out: Path) -> list[str]:
        """The arguments that start the run in `out`, or continue it."""
        if list_checkpoints(out):
            return [self.arguments[0], "--resume", str(out)]
        return [*self.arguments, "--output_dir", str(out), *(["--overwrite"] if out.exists() else [])]


class Campaign:
    """Kills processes of one kind. All work in the same folder, which is emptied for the next run."""

    def __init__(self, name: str, kind: Kind, place: Path, chance: random.Random):
        self.name, self.kind, self.place, self.chance = name, kind, place, chance
        self.out = place / "run"
        self.counts: Counter[str] = Counter()
        self.expected: dict[str, object] = {}

    def empty(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        self.kind.prepare(self.out)

    def start(self) -> Process | Together:
        command = self.kind.command(self.out)
        if self.kind.processes == 1:
            return Process(command, self.place)
        return Together(command, self.place, self.kind.processes)

    def has_failed(self, process: Process | Together) -> bool:
        """Wait until a process has ended, by itself or not."""
        code, said = process.wait()
        self.counts[KILLS] += code == -signal.SIGKILL
        return self.fault(FAILED, code not in (0, -signal.SIGKILL), f"exit code {code}: {said}")

    def compare(self) -> None:
        """Compare the folder with that of the undisturbed run."""
        files = differing(results(self.out), self.expected)
        self.fault(DIFFERENT, bool(files), ", ".join(files))

    def fault(self, which: str, is_one: bool, what: str) -> bool:
        """Count and print a fault, if it is one."""
        if is_one:
            self.counts[which] += 1
            print(f"FAULT {self.name}: {which}: {what}", flush=True)
        return is_one


class Watch:
    """What a run's folder tells about the process that works in it from now on."""

    def __init__(self, out: Path, last_step: int):
        self.out, self.last_step = out, last_step
        self.config_before, self.unfinished_before = self._config(), self._unfinished()

    def rows(self) -> int:
        return self.metrics().count(b"\n")

    def metrics(self) -> bytes:
        file = self.out / METRICS
        try:
            return file.read_bytes()
        except FileNotFoundError:  # not yet, or while a run is being replaced
            return b""

    def writes_checkpoint(self) -> bool:
        return bool(self._unfinished() - self.unfinished_before)

    def writes_results(self) -> bool:
        """Whether the process has started or continued the run, and the last step is saved."""
        return self._config() != self.config_before and bool(self._last()) and not self.is_finished()

    def is_finished(self) -> bool:
        return any(map(is_finished, self._last()))

    def _last(self) -> list[Path]:
        return list((self.out / "checkpoints").glob(f"step-{self.last_step:06d}*"))

    def _config(self) -> int | None:
        config = self.out / CONFIG
        return config.stat().st_mtime_ns if config.exists() else None

    def _unfinished(self) -> set[tuple[str, int]]:
        """Checkpoints that are half-written."""
        found = set()
        for path in (self.out / "checkpoints").glob(".*.unfinished"):
            try:
                found.add((path.name, path.stat().st_ctime_ns))
            except FileNotFoundError:
                continue  # renamed by now
        return found


Moment = Callable[[Process | Together, Watch], None]  # returns when the process is to be killed


class RunCampaign(Campaign):
    """A run that saves checkpoints, of any stage."""

    def undisturbed(self) -> None:
        """What the run leaves, and how long its parts take."""
        self.empty()
        self.first_row, started = Watch(self.out, 0).rows(), time.time()
        if self.has_failed(self.start()):
            sys.exit(1)
        last = list_checkpoints(self.out)[-1]
        loaded, saved = (file.stat().st_mtime for file in (self.out / CONFIG, last / MANIFEST))
        self.last_step = read_state(last)["step"]
        self.rows = Watch(self.out, self.last_step).rows() - self.first_row
        self.loading, self.a_row, self.final_save = loaded - started, (saved - loaded) / self.rows, time.time() - saved
        self.expected = results(self.out)

    def run(self, kills: int) -> None:
        """A new run that is killed up to `kills` times, and then ends."""
        self.empty()
        before_results = None
        for moment in self.plan(kills):
            watch, process = Watch(self.out, self.last_step), self.start()
            moment(process, watch)
            process.kill()
            if self.has_failed(process):
                return
            self.look(watch)
            if watch.writes_results() and before_results is None:
                before_results = watch.metrics()
            if watch.is_finished():
                break
        else:
            if self.has_failed(self.start()):
                return
        repeated = before_results not in (None, watch.metrics())
        self.fault(DIFFERENT, repeated, "a step was repeated after the last checkpoint")
        self.compare()

    def look(self, watch: Watch) -> None:
        """Count what a kill came into, and what it broke."""
        saved = bool(list_checkpoints(self.out))
        self.counts[WRITING] += watch.writes_checkpoint()
        self.counts[SAVING] += watch.writes_results()
        self.counts[EARLY] += not saved
        damage = load_checkpoint(self.out)[1] if saved else []
        self.fault(UNREADABLE, bool(damage), "; ".join(damage))

    def plan(self, kills: int) -> list[Moment]:
        """Two thirds of the moments are spread over the steps, the rest are in the final save."""
        early = kills - kills // 3
        rows = [self.first_row + number * self.rows // early for number in range(early)]
        moments = [self.chance.choice((self.loading_at, self.stepping_at, self.writing_at))(row) for row in rows]
        return moments + [self.save_results] * (kills - early)

    def loading_at(self, row: int) -> Moment:
        """While the process loads, wherever the run is."""
        return lambda process, watch: time.sleep(self.chance.uniform(0, 1.2 * self.loading))

    def stepping_at(self, row: int) -> Moment:
        """Within about three rows of metrics after `row`."""

        def moment(process: Process | Together, watch: Watch) -> None:
            wait_until(process, lambda: watch.rows() >= row)
            time.sleep(self.chance.uniform(0, 3 * self.a_row))

        return moment

    def writing_at(self, row: int) -> Moment:
        """In the first write of a checkpoint after `row`."""

        def moment(process: Process | Together, watch: Watch) -> None:
            wait_until(process, lambda: watch.rows() >= row and watch.writes_checkpoint())
            time.sleep(self.chance.uniform(0, A_WRITE))

        return moment

    def save_results(self, process: Process | Together, watch: Watch) -> None:
        """While results are written. Half the moments are in the first quarter, as a picture takes most of the time."""
        wait_until(process, watch.writes_results)
        time.sleep(self.final_save * self.chance.random() ** 2)


class CollectCampaign(Campaign):
    """`ppo-lm collect`, while a person judges one pair after another."""

    def undisturbed(self) -> None:
        """What the collection leaves when all pairs are judged, and how long its parts take."""
        self.empty()
        self.confirmed, started = 0, time.monotonic()
        process = self.start()
        process.address()
        self.loading, started = time.monotonic() - started, time.monotonic()
        if self.judge_all(process):
            sys.exit(1)
        self.pairs, self.an_answer = self.confirmed, (time.monotonic() - started) / self.confirmed
        self.expected = results(self.out)

    def run(self, kills: int) -> None:
        """A new collection whose server is killed `kills` times before all pairs are judged."""
        self.empty()
        self.confirmed = 0
        for number in range(kills):
            process = self.start()
            if self.chance.random() < 0.2:
                time.sleep(self.chance.uniform(0, self.loading))
            else:
                self.judge(process, kill_after=number * self.pairs // kills)
            process.kill()
            if self.has_failed(process):
                return
        if not self.judge_all(self.start()):
            self.compare()

    def judge_all(self, process: Process) -> bool:
        """Judge the remaining pairs, then stop the server. Returns whether that failed."""
        self.judge(process)
        os.kill(process.id, signal.SIGTERM)
        return self.has_failed(process)

    def judge(self, process: Process, kill_after: int | None = None) -> None:
        """Judge pairs until the server is killed, which comes within about three answers after `kill_after`, or until
        none is left."""
        address, killer = process.address(), None
        if address is None:
            return
        try:
            pair = first_pair(address)
            self.look(pair["done"])
            while not pair["finished"]:
                if killer is None and kill_after is not None and pair["done"] >= kill_after:
                    killer = threading.Timer(self.chance.uniform(0, 3 * self.an_answer), process.kill)
                    killer.start()
                pair = judge(address, pair)
                self.confirmed = pair["done"]
        except (OSError, http.client.HTTPException):  # the server is gone
            pass
        if killer is not None:
            killer.join()  # threads do not survive a fork

    def look(self, stored: int) -> None:
        """Compare what is stored with what was confirmed; the last answer may have been stored, but not confirmed."""
        self.counts[WRITING] += stored == self.confirmed + 1
        lost = not self.confirmed <= stored <= self.confirmed + 1
        self.fault(DIFFERENT, lost, f"{stored} answers are stored, {self.confirmed} were confirmed")


def wait_until(process: Process | Together, condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, or until the process has ended."""
    while not process.has_ended() and not condition():
        time.sleep(0.001)
