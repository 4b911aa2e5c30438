"""Signals to whole commands: before a run, in it, and to the server of `ppo-lm collect`."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ppo_lm.cli.main import main
from tests.conftest import FORKED
from tests.ppo_trainer.conftest import PROMPTS

REWARD = """
import os, signal

calls = []

def score(completions):
    calls.append(1)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.{name})
        os.kill(os.getpid(), signal.{name})
    return [1.0] * len(completions)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_there_is_a_run_a_signal_ends_the_process_without_a_word(number):
    program = (
        "import time, ppo_lm.signals\n"
        "with ppo_lm.signals.end_at_once_on_signals():\n"
        "    try: print('ready', flush=True), time.sleep(60)\n"
        "    except BaseException: raise ImportError('as transformers does')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert (process.wait(), process.stderr.read()) == (-number, "")
    process.communicate()


def command(arguments, place):
    """What a process of `begin` does."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT), number)
        setattr(sys, name, os.fdopen(number, "w", closefd=False))
    main(arguments)


def begin(arguments, place):
    """A command in a process that has torch imported; `stdout` and `stderr` are files in `place`."""
    process = FORKED.Process(target=command, args=(arguments, place))
    process.start()
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("call", "step"), [(1, 0), (4, 2)], ids=["in the first evaluation", "in a step"])
def test_a_run_whose_signal_is_delivered_twice_is_saved(folder, tmp_path, number, call, step):
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS))
    (tmp_path / "my_reward.py").write_text(REWARD.format(call=call, name=number.name))
    options = f"--model_name {folder} --prompts {tmp_path}/prompts.jsonl --reward {tmp_path}/my_reward.py:score"
    options += " --steps 40 --batch_size 4 --mini_batches 2 --eval_prompts 2 --max_new_tokens 4 --lora_r 4"
    arguments = ["train", *options.split(), "--output_dir", str(tmp_path / "run")]
    process = begin(arguments, tmp_path)
    process.join()
    said = (tmp_path / "stderr").read_text()
    assert process.exitcode == 75
    assert f"{number.name} was received\nThe run was saved as it was after step {step}; continue with" in said
    assert "Traceback" not in said and said.count("send it again") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_server_of_collect_stops_by_either_signal(tmp_path, number):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "p", "completion_a": "a", "completion_b": "b"}))
    process = begin(f"collect --pairs {pairs} --output_dir {tmp_path / 'out'} --port 0".split(), tmp_path)
    shown = tmp_path / "stdout"
    while not (shown.exists() and "Open http" in shown.read_text()):
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid, number)
    os.kill(process.pid, number)
    process.join()
    assert (process.exitcode, (tmp_path / "stderr").read_text()) == (0, "")
    assert "0 of 1 answered; run the same command to continue." in shown.read_text()
    assert not (tmp_path / "out" / ".lock").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_libraries_shut_down_leaves_the_exit_code_and_no_word(number):
    program = (
        "import atexit, os, time, ppo_lm.signals\n"
        "with ppo_lm.signals.end_at_once_on_signals():\n"
        f"    atexit.register(lambda: (os.kill(os.getpid(), {int(number)}), time.sleep(0.01)))\n"
        "    raise SystemExit(75)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (75, "", "")
