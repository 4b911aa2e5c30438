"""Kill a run repeatedly at random moments, resume it each time, and compare the result with that of an undisturbed run.

    uv run benchmarks/kill_campaign.py [--kills 100] [--steps 200] [--seed 0]

The run trains a very small model with random weights and saves a checkpoint before every second step, so many kills
come while a checkpoint is being written. Each process is forked from one that has the libraries loaded. One in five is
killed while it starts or resumes; for the others, kill k comes within three steps after step k · steps / kills. If a
kill comes before the first checkpoint, the run starts again from the beginning; such kills count too. Exits with code 1
if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.base_setup import EMBEDDED_MODEL
from ppo_lm.run import list_checkpoints, load_checkpoint

PROMPTS = [f"SUBREDDIT: r/advice TITLE: My boss number {n} TL;DR:" for n in range(12)]
COSTS = ("seconds", "floor", "tokens_per_second", "sampled_tokens_per_second", "peak_memory_mib")


def of_length(prompts, completions):
    return [len(completion) / 10 for completion in completions]


def make_model(folder: Path) -> None:
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


def run(model: Path, out: Path, steps: int) -> None:
    """Start the run in `out`, or continue it."""
    config = PPOConfig(
        model_name=str(model),
        batch_size=4,
        mini_batches=2,
        ppo_epochs=2,
        steps=steps,
        eval_prompts=2,
        eval_every=20,
        samples_every=1,
        learning_rate=1e-3,
        save_every=2,
        output_dir=str(out),
        save_merged=False,
        max_new_tokens=6,
        lora_r=4,
        device="cpu",
    )
    resume = out if list_checkpoints(out) else None  # none if it was killed before its first checkpoint
    PPOTrainer(config, reward=of_length).train(PROMPTS, resume=resume, overwrite=resume is None)


def in_a_process(model: Path, out: Path, steps: int) -> int:
    """Fork a process that executes `run` silently. Returns its process id."""
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as silence:
            os.dup2(silence.fileno(), 1)
        try:
            run(model, out, steps)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    return child


def wait_for(child_ended, out: Path, lines: int) -> None:
    """Wait until the run has recorded `lines` lines, or until its process has ended."""
    metrics = out / "metrics.jsonl"
    while not child_ended() and (metrics.read_bytes().count(b"\n") if metrics.exists() else 0) < lines:
        time.sleep(0.002)


def results(out: Path) -> dict[str, object]:
    """The results that must be equal."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    metrics = [{name: value for name, value in row.items() if not name.startswith(COSTS)} for row in rows]
    weights = {
        str(file.relative_to(out)): file.read_bytes() for file in sorted((out / "adapter").glob("*.safetensors"))
    }
    return {"metrics": metrics, "samples": (out / "samples.jsonl").read_text(encoding="utf-8"), "weights": weights}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as place:
        model, whole, parts = (Path(place) / name for name in ("model", "whole", "parts"))
        make_model(model)
        started = time.monotonic()
        _, status = os.waitpid(in_a_process(model, whole, arguments.steps), 0)
        if status:
            sys.exit("the undisturbed run failed")
        a_step = (time.monotonic() - started) / arguments.steps
        kills = writing = restarts = damaged = failed = 0
        while not (parts / "adapter" / "adapter_config.json").exists() and not failed:
            if parts.exists() and not list_checkpoints(parts):
                shutil.rmtree(parts)
                restarts += 1
            child = in_a_process(model, parts, arguments.steps)
            if kills < arguments.kills:
                if moments.random() < 0.2:
                    time.sleep(moments.uniform(0, 0.5))
                else:
                    wait_for(
                        lambda child=child: os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT),
                        parts,
                        kills * arguments.steps // arguments.kills,
                    )
                    time.sleep(moments.uniform(0, 3 * a_step))
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                kills += 1
                writing += any((parts / "checkpoints").glob(".*.unfinished"))
                damaged += len(load_checkpoint(parts)[1]) if list_checkpoints(parts) else 0
            failed += os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0
        print(
            f"{kills} kills, {writing} of them while a checkpoint was being written, {restarts} before the first one; "
            f"unreadable checkpoints: {damaged}; failed resumes: {failed}"
        )
        if failed or damaged:
            sys.exit(1)
        found, expected = results(parts), results(whole)
        for name in expected:
            print(f"{name}: {'equal' if found[name] == expected[name] else 'DIFFERENT'}")
        sys.exit(found != expected)


if __name__ == "__main__":
    main()
