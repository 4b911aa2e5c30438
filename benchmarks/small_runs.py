"""What the campaigns share: very small runs of every command, processes forked from one that has the libraries loaded,
a person who judges pairs over HTTP, and what must be equal in two folders."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
import urllib.request
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import ppo_lm.collection
import ppo_lm.comparison
import ppo_lm.ppo_trainer
import ppo_lm.reward_modeling
import ppo_lm.sft
import ppo_lm.value_modeling  # noqa: F401  (imported before the forks)
from ppo_lm.base_setup import EMBEDDED_MODEL
from ppo_lm.cli.main import main as ppo_lm_main
from ppo_lm.config.output_folder import LOCK

PROMPTS = [f"SUBREDDIT: r/advice TITLE: My boss number {n} TL;DR:" for n in range(12)]
REWARD = "length_target(words=4)"
COSTS = ("seconds", "floor", "tokens_per_second", "sampled_tokens_per_second", "peak_memory_mib")
TO_END = 30  # seconds, after which torchrun kills
TIMED = {"at", "rows", "state.json"}  # a time, and in a checkpoint the hashes of files that hold costs


def make_model(folder: Path) -> None:
    """A model with random weights."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_rows(file: Path, rows: list[dict]) -> str:
    """Write a .jsonl file. Returns its path."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def make_commands(place: Path, *, epochs: int, steps: int, pairs: int) -> dict[str, list[str]]:
    """The arguments of every command but --output_dir. Model and data are written into `place`. `epochs` of the
    supervised stages, `steps` of PPO, `pairs` to judge for each prompt."""
    model = place / "model"
    make_model(model)
    completions = {"chosen": "I am upset.", "rejected": "My boss." * 9}
    prompts = write_rows(place / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    demonstrations = write_rows(
        place / "demonstrations.jsonl", [{"prompt": prompt, "completion": "I am upset."} for prompt in PROMPTS]
    )
    preferences = write_rows(place / "preferences.jsonl", [{"prompt": prompt, **completions} for prompt in PROMPTS])
    judged = write_rows(
        place / "pairs.jsonl",
        [
            {"prompt": f"{prompt} {number} " * 30, "completion_a": "I am upset.", "completion_b": "My boss." * 9}
            for number in range(pairs)
            for prompt in PROMPTS
        ],
    )
    stage = f"--held_out 2 --epochs {epochs} --batch_size 4 --save_every 2 --lora_r 4 --device cpu --model_name {model}"
    ppo = "--batch_size 4 --mini_batches 2 --eval_prompts 2 --eval_every 2 --samples_every 1 --save_every 2 --lora_r 4"
    ppo += f" --max_new_tokens 6 --device cpu --steps {steps} --model_name {model} --prompts {prompts}"
    compared = f"--models one={model} --models two={model} --prompts {prompts} --judge {REWARD} --eval_prompts 4"
    return {
        "sft": f"sft {stage} --rouge_samples 0 --demonstrations {demonstrations}".split(),
        "reward": f"reward {stage} --preferences {preferences}".split(),
        "value": f"value {stage} --demonstrations {demonstrations} --reward {REWARD}".split(),
        "train": f"train {ppo} --reward {REWARD}".split(),
        "evaluate": f"evaluate {compared} --max_new_tokens 6 --device cpu".split(),
        "collect": f"collect --pairs {judged} --port 0".split(),
    }


class Process:
    """A command in a process of its own, forked from this one."""

    def __init__(
        self, arguments: list[str], place: Path, stdout: str | None = None, environment: dict[str, str] | None = None
    ):
        """`stdout`: the file, "closed", or "unread"; None for one in `place`. `environment`: what is added to that of
        this process."""
        self.out, self.err = place / "out", place / "err"
        self.out.write_text("")
        self.id = os.fork()
        if self.id == 0:
            os.environ.update(environment or {})
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

    def kill(self) -> None:
        os.kill(self.id, signal.SIGKILL)

    def wait(self) -> tuple[int, str]:
        """The exit code, and what was written to stderr but notes."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.id, 0)[1])
        lines = self.err.read_text(encoding="utf-8").splitlines(keepends=True) if self.err.exists() else []
        return code, "".join(line for line in lines if not line.startswith("note:"))

    def address(self) -> str | None:
        """The address of the page of `ppo-lm collect`, once it listens; None if it ends before."""
        while not self.has_ended():
            found = re.search(r"Open (http://\S+)\n", self.out.read_text(encoding="utf-8"))
            if found:
                return found[1]
            time.sleep(0.005)
        return None


class Together:
    """A command in several processes that work together, as torchrun starts and ends them: when one of them dies, the
    others are asked to stop. A kill is for one of them, by turns."""

    kills = 0

    def __init__(self, arguments: list[str], place: Path, size: int):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        self.processes = []
        for rank in range(size):
            own = place / f"process-{rank}"
            own.mkdir(exist_ok=True)
            launcher = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
            launcher |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
            environment = {name: str(value) for name, value in launcher.items()}
            self.processes.append(Process(arguments, own, environment=environment))

    def has_ended(self) -> bool:
        return any(process.has_ended() for process in self.processes)

    def kill(self) -> None:
        Together.kills += 1
        self.processes[Together.kills % len(self.processes)].kill()

    def wait(self) -> tuple[int, str]:
        """The exit code, and what was written to stderr: −9 if one was killed and the others, which noticed or were
        asked to stop, ended as they should."""
        while not self.has_ended():
            time.sleep(0.005)
        time.sleep(0.2)  # the others may end by themselves
        for process in self.processes:
            if not process.has_ended():
                os.kill(process.id, signal.SIGTERM)
        deadline = time.monotonic() + TO_END
        while not all(process.has_ended() for process in self.processes) and time.monotonic() < deadline:
            time.sleep(0.005)
        hanging = [process for process in self.processes if not process.has_ended()]
        for process in hanging:
            process.kill()
        ended = [process.wait() for process in self.processes]
        codes = [code for code, _ in ended]
        said = "".join(text for _, text in ended)
        if hanging:
            return -1, f"{len(hanging)} processes did not end within {TO_END} s\n{said}"
        if -signal.SIGKILL in codes:
            unexpected = set(codes) - {0, -signal.SIGKILL, -signal.SIGTERM, 1, 75}
            return (unexpected.pop() if unexpected or "Traceback" in said else -signal.SIGKILL), said
        return max(codes, key=abs), said


def first_pair(address: str) -> dict:
    """The pair that the page shows."""
    with urllib.request.urlopen(f"{address}pair") as response:
        return json.load(response)


def judge(address: str, pair: dict) -> dict:
    """Prefer the shorter completion. Returns the next pair, so the answer is confirmed. Raises `OSError` or
    `http.client.HTTPException` if it is not."""
    answer = {"task": pair["task"], "answer": "a" if len(pair["a"]) < len(pair["b"]) else "b", "seconds": 1}
    request = urllib.request.Request(
        f"{address}answer", json.dumps(answer).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def results(out: Path) -> dict[str, object]:
    """What a command leaves in its folder, by file, without what differs from run to run."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != LOCK)
    return {str(file.relative_to(out)): _content(file) for file in files}


def differing(found: dict[str, object], expected: dict[str, object]) -> list[str]:
    """The files that differ, or are in one of them only."""
    return [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]


def _content(file: Path) -> object:
    if file.suffix == ".jsonl":
        return [_without_times(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    if file.suffix == ".json":
        return _without_times(json.loads(file.read_text(encoding="utf-8")))
    return file.read_bytes()


def _without_times(row: object) -> object:
    if isinstance(row, dict):
        names = [name for name in row if name not in TIMED and not name.startswith(COSTS)]
        return {name: _without_times(row[name]) for name in names}
    return [_without_times(value) for value in row] if isinstance(row, list) else row
