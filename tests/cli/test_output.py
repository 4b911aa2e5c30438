"""Commands whose output nobody reads, or whose disk is full."""

import json
import os
import subprocess
import sys

import pytest

from ppo_lm.cli.main import main
from ppo_lm.cli.output import lasting_output
from ppo_lm.run import load_checkpoint
from tests.conftest import FORKED, FULL, needs_full
from tests.ppo_trainer.conftest import PROMPTS

SENTENCE = "error: stdout cannot be written: No space left on device; nothing more is printed\n"
PRINTING = [["--help"], ["--version"], ["sft", "--help"], ["evaluate", "--print_config"], ["train", "--print_config"]]


def redirected(arguments, stdout, stderr):
    """Call the command in a process of its own, with a descriptor of `stdout`: "full", "closed", or "unread"."""
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    if stdout == "full":
        os.dup2(os.open(FULL, os.O_WRONLY), 1)
    elif stdout == "unread":
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(writer)
        os.close(reader)
    else:
        os.close(1)
    sys.stdout = None if stdout == "closed" else os.fdopen(1, "w", closefd=False)
    main(arguments)
    assert os.fstat(1)  # it is not free for a file of the run


def call(arguments, stdout, stderr):
    """(exit code, stderr) of a command; the exit code is that of the whole process, after Python has shut down."""
    process = FORKED.Process(target=redirected, args=(arguments, stdout, stderr))
    process.start()
    process.join()
    return process.exitcode, stderr.read_text()


@pytest.mark.parametrize(("stdout", "code"), [("full", 74), ("closed", 0), ("unread", 0)])
@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_command_that_cannot_print_says_so_once_unless_nobody_wants_it(tmp_path, arguments, stdout, code):
    if stdout == "full" and not FULL.exists():
        pytest.skip("this system has no /dev/full")
    ended, said = call(arguments, stdout, tmp_path / "stderr")
    assert ended == code
    assert [line for line in said.splitlines(keepends=True) if not line.startswith("note:")] == [SENTENCE] * bool(code)


@pytest.mark.parametrize(("stdout", "code"), [("full", 74), ("closed", 0), ("unread", 0)])
def test_a_run_that_cannot_print_goes_on_and_is_whole(folder, tmp_path, stdout, code):
    if stdout == "full" and not FULL.exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS))
    out = tmp_path / "run"
    options = {"model_name": folder, "prompts": tmp_path / "prompts.jsonl", "reward": "length_target(words=4)"}
    options |= {"steps": 3, "batch_size": 4, "mini_batches": 2, "eval_prompts": 2, "max_new_tokens": 4, "lora_r": 4}
    options |= {"save_merged": "false", "output_dir": out}
    arguments = ["train", *(text for name, value in options.items() for text in (f"--{name}", str(value)))]
    ended, said = call(arguments, stdout, tmp_path / "stderr")
    assert ended == code and "Traceback" not in said and said.count("stdout cannot be written") == bool(code)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "evaluation" not in row] == [1, 2, 3]
    assert (out / "adapter" / "adapter_model.safetensors").exists() and load_checkpoint(out)[0].finished
    ended, said = call(["doctor", str(out)], stdout, tmp_path / "stderr of the doctor")
    assert ended == code and said == SENTENCE * bool(code)


@needs_full
@pytest.mark.fast
def test_another_exit_code_counts_for_more_than_a_full_stdout(monkeypatch):
    def end_with(code):
        with lasting_output():
            print("text")
            raise SystemExit(code)

    for code, expected in ((75, 75), (0, 74), (None, 74)):
        with FULL.open("w") as full, monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", full)
            with pytest.raises(SystemExit) as ended:
                end_with(code)
            assert sys.stdout is full
        assert ended.value.code == expected


def test_what_the_encoding_of_the_terminal_lacks_is_shown_as_an_escape():
    program = "from ppo_lm.cli.output import lasting_output\nwith lasting_output(): print('caf\\u00e9 \\u2713')"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment, check=True)
    assert shown.stdout == b"caf\xe9 \\u2713\n" and shown.stderr == b""
