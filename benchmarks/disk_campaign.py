"""Run every command on disks that are too small, resume it on a larger one, and compare the result with that of an
undisturbed run; then run it with a stdout that is full, closed, or read by nobody.

    uv run benchmarks/disk_campaign.py [--sizes 40] [--only train]      (as root, or after `unshare -rm`)

The disk is a real one, in memory (tmpfs): its size is between nothing and what the undisturbed run takes up at most, so
it is full while the folder is made, in the middle of a checkpoint, of a line of metrics, or of the final save. Model
and data are elsewhere. A command that fails must end with exit code 74 and one sentence. Exits with code 1 if anything
is not as documented, or differs.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections import Counter
from pathlib import Path

import torch
from small_runs import Process, differing, first_pair, judge, make_commands, results

WHOLE = "64m"
SENTENCE = re.compile(r"error: [^\n]* cannot be written: No space left on device; free some space or fix the path\n")
RESUME = re.compile(r"continue from it with: ppo-lm (\w+) --resume (\S+)")


class Disk:
    """A disk in memory, whose size changes."""

    def __init__(self, place: Path):
        self.place = place
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={WHOLE}", "tmpfs", str(place)], check=True)

    def resize(self, size: str | int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.place)], check=True)

    def empty(self, size: str | int) -> None:
        for path in self.place.iterdir():
            shutil.rmtree(path)
        self.resize(size)

    def used(self) -> int:
        found = os.statvfs(self.place)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def remove(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.place)], check=True)


class Campaign:
    """One command on one disk after another."""

    def __init__(self, name: str, arguments: list[str], disk: Disk, scratch: Path):
        self.name, self.disk, self.scratch = name, disk, scratch
        self.out = disk.place / "run"
        self.arguments = [*arguments, "--output_dir", str(self.out)]
        self.counts: Counter[str] = Counter()

    def run(self, arguments: list[str], stdout: str | None = None) -> tuple[int, str]:
        process = Process(arguments, self.scratch, stdout)
        if self.name == "collect":
            self.answer(process)
        return process.wait()

    def answer(self, process: Process) -> None:
        """Judge every pair, until the disk is full; then stop the server."""
        address = process.address()
        if address is None:
            return
        pair = first_pair(address)
        try:
            while not pair["finished"]:
                pair = judge(address, pair)
        except urllib.error.HTTPError as error:
            said = error.read().decode()
            self.expect(error.code == 507 and "No space left on device; free some space" in said, said)
            self.counts["an answer refused"] += 1
        os.kill(process.id, signal.SIGTERM)
        answers = self.out / "answers.jsonl"
        stored = answers.read_bytes().count(b"\n") if answers.exists() else 0
        self.expect(stored == pair["done"], f"{stored} answers of {pair['done']}")

    def undisturbed(self) -> None:
        """What the command leaves, and how much of the disk it takes up at most."""
        self.disk.empty(WHOLE)
        self.peak, process = 0, Process(self.arguments, self.scratch)
        if self.name == "collect":
            self.answer(process)
        while not process.has_ended():
            self.peak = max(self.peak, self.disk.used())
            time.sleep(0.001)
        self.peak = max(self.peak, self.disk.used())
        code, said = process.wait()
        if code or said:
            sys.exit(f"the undisturbed {self.name} failed with {code}: {said}")
        self.expected = results(self.out)

    def on_a_disk_of(self, size: int) -> None:
        """Run on a disk of `size` bytes, then on one that is large enough."""
        self.disk.empty(size)
        code, said = self.run(self.arguments)
        where = f"{size} bytes, exit code {code}: {said}"
        if code == 0 and not said:
            self.counts["fits"] += 1
            self.compare(where)
            return
        if code or self.name != "collect":  # which goes on when an answer does not fit
            self.expect(code == 74 and SENTENCE.match(said) is not None and len(said.splitlines()) <= 2, where)
        self.disk.resize(WHOLE)
        resume = RESUME.search(said)
        if resume:
            self.counts["resumed"] += 1
            again = [resume[1], "--resume", resume[2]]
        else:
            self.counts["started again"] += 1
            again = [*self.arguments, *(["--overwrite"] if "start again with --overwrite" in said else [])]
        code, said = self.run(again)
        self.expect(code == 0 and not said, f"{where}\nagain, exit code {code}: {said}")
        self.compare(where)

    def with_stdout(self, stdout: str, expected: int) -> None:
        """Run with another stdout."""
        self.disk.empty(WHOLE)
        code, said = self.run(self.arguments, stdout)
        self.expect(code == expected and said.count("\n") == bool(expected), f"stdout {stdout}: {code}: {said}")
        self.counts["ran without stdout"] += 1
        self.compare(f"stdout {stdout}")

    def compare(self, where: str) -> None:
        files = differing(results(self.out), self.expected)
        self.expect(not files, f"{where}: different: {files}")

    def expect(self, is_so: bool, what: str) -> None:
        if not is_so:
            self.counts["FAULTS"] += 1
            print(f"FAULT {self.name}: {what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, default=40)
    parser.add_argument("--only", help="a single command")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        commands, faults = make_commands(place, epochs=2, steps=5, pairs=1), 0
        disk = Disk(place / "disk")
        try:
            for name, command in commands.items():
                if arguments.only in (None, name):
                    faults += campaign(Campaign(name, command, disk, place), arguments.sizes)
        finally:
            disk.remove()
    sys.exit(bool(faults))


def campaign(command: Campaign, sizes: int) -> int:
    """Returns the number of faults."""
    command.undisturbed()
    for number in range(1, sizes + 1):
        command.on_a_disk_of(max(int(1.1 * command.peak) * number // sizes, 4096))
    if command.name != "collect":  # which prints the address to open
        for stdout, code in {"/dev/full": 74, "closed": 0, "unread": 0}.items():
            command.with_stdout(stdout, code)
    counts = ", ".join(f"{what} {count}" for what, count in command.counts.items())
    print(f"{command.name}: {sizes} disks of up to {1.1 * command.peak / 1024:,.0f} KiB: {counts}", flush=True)
    return command.counts["FAULTS"]


if __name__ == "__main__":
    main()
