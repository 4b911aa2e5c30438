"""The page for newcomers, its commands run as they are, in a fresh folder, by a shell."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import CHECKOUT, blocks, commands

BLOCKS = blocks("docs/start.md", "")
MAIN_JOB = BLOCKS[0]


@pytest.fixture
def fresh(tmp_path) -> Path:
    """A checkout without runs, with an environment that is already installed."""
    if shutil.which("uv") is None:
        pytest.skip("the page installs uv, which this environment lacks")
    for path in CHECKOUT.iterdir():
        if not path.name.startswith(".") and path.name not in ("runs", "uv.lock"):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def run(code: str, folder: Path) -> str:
    """Run commands, all of which must succeed. Returns what they printed."""
    code = code.replace("pip install uv\n", "")  # it is installed; nothing else is left out
    environment = {**os.environ, "UV_NO_SYNC": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        ["bash", "-euc", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_main_job_and_its_report(fresh):
    """With fewer steps and prompts than the page has; the slow test below runs it as it is."""
    small = MAIN_JOB.code.replace("main.py", "main.py --steps 2 --eval_prompts 4")
    assert small != MAIN_JOB.code
    assert "step 2/2" in run(small, fresh)
    assert "report.html" in run("uv run ppo-lm report runs/embedded", fresh)
    assert (fresh / "runs" / "embedded" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_as_it_is(fresh):
    for block in BLOCKS:
        print(run(block.code, fresh))
    runs = fresh / "runs"
    assert (runs / "embedded" / "merged").is_dir() and (runs / "short" / "report.html").is_file()
    assert (runs / "short" / "export" / "adapter").is_dir()


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_each_part_of_the_page_takes_at_most_three_commands(block):
    assert 1 <= len(commands(block.code)) <= 3
