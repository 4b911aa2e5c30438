import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import WHY_NO_KERNELS


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request):
    """A dtype that the kernels for CPUs have, where a compiler makes them."""
    if WHY_NO_KERNELS:
        pytest.skip(WHY_NO_KERNELS)
    return request.param


@pytest.fixture(scope="module")
def interpret(tmp_path_factory):
    """Runs a module of this folder with Triton's interpreter, and loads what it saves. Triton must know before it is
    imported."""
    pytest.importorskip("triton", reason="Triton is not installed")

    def run(module):
        file = tmp_path_factory.mktemp("kernels") / "found.pt"
        command = [sys.executable, "-W", "ignore", "-m", f"tests.kernels.{module}", str(file)]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[2], env=os.environ | {"TRITON_INTERPRET": "1"})
        return torch.load(file)

    return run
