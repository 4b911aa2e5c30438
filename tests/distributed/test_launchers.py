"""Real launchers, and what the command line says in several processes."""

import json
import os
import subprocess
import sys

import pytest

from ppo_lm.cli.main import main
from tests.conftest import checkout  # noqa: F401  (a fixture)
from tests.distributed.conftest import environment_of, free_port

TRAIN = "train --config embedded --steps 2 --eval_prompts 4 --batch_size 6 --device cpu --top_k 0 --top_p 1".split()


def launched(launcher, arguments, cwd):
    variables = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(cwd)}
    return subprocess.run(
        [sys.executable, "-m", *launcher, *arguments],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def torchrun(size):
    return ["torch.distributed.run", "--nproc-per-node", str(size), "--master-port", str(free_port()), "-m", "ppo_lm"]


def test_torchrun_trains_evaluates_and_speaks_with_one_voice(tmp_path, checkout):  # noqa: F811
    out = tmp_path / "run"
    done = launched(torchrun(2), [*TRAIN, "--output_dir", str(out)], checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 2/2") == done.stdout.count("2 processes share the work of a step") == 1
    assert f"torchrun --nproc-per-node 2 -m ppo_lm train --resume {out} --steps N" in done.stdout
    assert f"ppo-lm report {out}" in done.stdout
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "evaluation" not in row] == [1, 2]

    wrong = launched(torchrun(2), [*TRAIN, "--output_dir", str(out)], checkout)  # where a run is already
    assert wrong.returncode != 0
    assert wrong.stderr.count("error: output_dir") == 1


@pytest.mark.slow
def test_accelerate_launch_does_what_torchrun_does(tmp_path, checkout):  # noqa: F811
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--module", "ppo_lm"]
    done = launched(launcher, [*TRAIN, "--output_dir", str(tmp_path / "run")], checkout)
    assert done.returncode == 0, done.stderr
    assert "2 processes share the work of a step" in done.stdout


@pytest.mark.fast
@pytest.mark.parametrize("command", ["collect", "generate", "export", "report", "doctor"])
def test_commands_of_one_process_say_so(command, monkeypatch, capsys):
    for name, value in environment_of(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main([command])
    assert f"error: ppo-lm {command} works in one process, but this was started as 2" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit):
        main([command])
    assert capsys.readouterr().err == ""  # another one has said it
