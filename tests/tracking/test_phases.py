import subprocess
import sys

import pytest
import torch

from ppo_lm.tracking import peak_memory, phases

CHILD = f"""
import runpy, torch
print(runpy.run_path({phases.__file__!r})["peak_memory"](torch.device("cpu")))  # the file alone, for the sake of time
"""


def test_peak_memory_rises_with_what_is_held():
    before = peak_memory(torch.device("cpu"))
    held = torch.ones(2**28, dtype=torch.uint8)  # 256 MiB
    while (
        peak_memory(torch.device("cpu")) < before + 1 and len(held) < 2**32
    ):  # until it exceeds what was held and freed before
        held = torch.ones(2 * len(held), dtype=torch.uint8)
    assert peak_memory(torch.device("cpu")) >= len(held) / 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process's own peak")
def test_peak_memory_is_not_that_of_the_process_that_started_this_one():
    parent = (
        "import subprocess, sys; held = bytearray(b'x') * 2**31; subprocess.run([sys.executable, '-c', "
        f"{CHILD!r}], check=True)"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert 50 < float(done.stdout) < 2**11
