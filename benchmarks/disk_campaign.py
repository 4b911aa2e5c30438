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
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import torch
from kill_campaign import COSTS, PROMPTS, make_model

import ppo_lm.collection
import ppo_lm.comparison
import ppo_lm.ppo_trainer
import ppo_lm.reward_modeling
import ppo_lm.sft
import ppo_lm.value_modeling  # noqa: F401  (imported before the forks)
from ppo_lm.cli.main import main as ppo_lm_main

WHOLE = "64m"
SENTENCE = re.compile(r"error: [^\n]* cannot be written: No space left on device; free some space or fix the path\n")
RESUME = re.compile(r"continue from it with: ppo-lm (\w+) --resume (\S+)")
UNEQUAL = {"at", "seconds", "output_dir", *COSTS}  # times


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


class Process:
    """A command in a process of its own, forked from this one."""

    def __init__(self, arguments: list[str], place: Path, stdout: str | None = None):
        """`stdout`: the file, "closed", or "unread"; None for one in `place`."""
        self.out, self.err = place / "out", place / "err"
        self.out.write_text("")
        self.id = os.fork()
        if self.id == 0:
            self._run(arguments, stdout)

    def _run(self, arguments: list[str], stdout: str | None) -> None:
        os.dup2(os.open(self.err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        if stdout == "unread":
            reader, writer = os.pipe()
            os.dup2(writer, 1)
            os.close(reader)
            os.close(writer)
        else:
            os.dup2(os.open(self.out if stdout in (None, "closed") else stdout, os.O_WRONLY), 1)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        if stdout == "closed":
            os.close(1)
            sys.stdout = None
        code = 1
        try:
            ppo_lm_main(arguments)
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def has_ended(self) -> bool:
        return bool(os.waitid(os.P_PID, self.id, os.WEXITED | os.WNOHANG | os.WNOWAIT))

    def wait(self) -> tuple[int, str]:
        """The exit code, and what was written to stderr but notes."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.id, 0)[1])
        lines = self.err.read_text(encoding="utf-8").splitlines(keepends=True)
        return code, "".join(line for line in lines if not line.startswith("note:"))


def write_rows(file: Path, rows: list[dict]) -> str:
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(file)


def make_commands(place: Path) -> dict[str, list[str]]:
    """The arguments of every command but --output_dir."""
    model = place / "model"
    make_model(model)
    demonstrations = [{"prompt": prompt, "completion": "I am upset."} for prompt in PROMPTS]
    pairs = [{"prompt": prompt, "chosen": "I am upset.", "rejected": "My boss." * 9} for prompt in PROMPTS]
    prompts = write_rows(place / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    demonstrations = write_rows(place / "demonstrations.jsonl", demonstrations)
    preferences = write_rows(place / "preferences.jsonl", pairs)
    judged = write_rows(
        place / "pairs.jsonl",
        [
            {"prompt": f"{prompt} " * 30, "completion_a": "I am upset.", "completion_b": "My boss." * 9}
            for prompt in PROMPTS
        ],
    )
    reward = "length_target(words=4)"
    stage = "--held_out 2 --epochs 2 --batch_size 4 --save_every 2 --lora_r 4 --device cpu --model_name".split()
    stage.append(str(model))
    ppo = "--batch_size 4 --mini_batches 2 --steps 5 --eval_prompts 2 --eval_every 2 --samples_every 1 --save_every 2"
    ppo += f" --max_new_tokens 6 --lora_r 4 --device cpu --model_name {model} --prompts {prompts} --reward {reward}"
    return {
        "sft": ["sft", *stage, "--demonstrations", demonstrations, "--rouge_samples", "0"],
        "reward": ["reward", *stage, "--preferences", preferences],
        "value": ["value", *stage, "--demonstrations", demonstrations, "--reward", reward],
        "train": ["train", *ppo.split()],
        "evaluate": [
            *f"evaluate --models one={model} --models two={model} --prompts {prompts} --judge {reward}".split(),
            *"--eval_prompts 4 --max_new_tokens 6 --device cpu".split(),
        ],
        "collect": ["collect", "--pairs", judged, "--port", "0"],
    }


def without_times(row: object) -> object:
    """A record without what differs from run to run."""
    if isinstance(row, dict):
        return {name: without_times(value) for name, value in row.items() if not name.startswith(tuple(UNEQUAL))}
    return [without_times(value) for value in row] if isinstance(row, list) else row


def results(out: Path) -> dict[str, object]:
    """What a command leaves in its folder, by file."""
    found: dict[str, object] = {}
    for file in sorted(path for path in out.rglob("*") if path.is_file() and path.suffix not in (".png", ".yaml")):
        content: object = file.read_bytes()
        if file.suffix == ".jsonl":
            content = [without_times(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
        found[str(file.relative_to(out))] = content
    return found


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
        address = None
        while not process.has_ended() and address is None:
            address = re.search(r"Open (http://\S+)", process.out.read_text(encoding="utf-8"))
            time.sleep(0.01)
        if address is None:
            return
        confirmed = 0
        pair = json.load(urllib.request.urlopen(address[1] + "pair"))
        first = pair["done"]
        while not pair["finished"]:
            body = json.dumps({"task": pair["task"], "answer": "a" if len(pair["a"]) < 20 else "b", "seconds": 1})
            request = urllib.request.Request(
                address[1] + "answer", body.encode(), {"Content-Type": "application/json"}, method="POST"
            )
            try:
                pair = json.load(urllib.request.urlopen(request))
                confirmed += 1
            except urllib.error.HTTPError as error:
                said = error.read().decode()
                self.expect(error.code == 507 and "No space left on device; free some space" in said, said)
                self.counts["an answer refused"] += 1
                break
        os.kill(process.id, signal.SIGTERM)
        stored = (self.out / "answers.jsonl").read_text(encoding="utf-8").splitlines() if first + confirmed else []
        self.expect(len(stored) == first + confirmed, f"{len(stored)} answers of {first + confirmed}")

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
        found = results(self.out)
        differing = [name for name in {*found, *self.expected} if found.get(name) != self.expected.get(name)]
        self.expect(not differing, f"{where}: different: {differing}")

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
        commands, faults = make_commands(place), 0
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
