"""Sampling by real SGLang servers. SGLANG_PYTHON names the Python of an environment that has SGLang;
docs/remote_sampling.md says how to make one."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from ppo_lm.base_setup import EMBEDDED_MODEL
from ppo_lm.rollout.remote import SGLANG
from tests.rollout.server_double import NUMBER
from tests.rollout.sglang_double import GENERATE, LOAD, SAMPLING, UNLOAD
from tests.rollout.test_real_vllm import (
    GAP,
    MAIN_JOB,
    TEMPERATURES,
    RealServer,
    Watch,
    check_trained_adapter,
    rise,
    run,
)

PYTHON = os.environ.get("SGLANG_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(PYTHON is None, reason="SGLANG_PYTHON does not name the Python of an environment with SGLang"),
]
LAUNCHER = Path(__file__).parent / "sglang_on_cpu.py"
FLAGS = (
    "--device cpu --dtype float32 --attention-backend torch_native --sampling-backend pytorch "
    "--disable-overlap-schedule --skip-server-warmup --max-total-tokens 16384 "
    "--enable-lora --lora-backend torch_native --lora-target-modules all --max-lora-rank 16 --max-loras-per-batch 4"
)
WORDS = {  # the types of the double's fields, as annotations
    int: ["int"],
    str: ["str"],
    bool: ["bool"],
    NUMBER: ["float"],
    list: ["List[int]", "Set[int]"],
    dict: ["Dict"],
}
SCHEMA = f"""
import json, runpy
runpy.run_path({str(LAUNCHER)!r}, run_name="launcher")
from sglang.srt.entrypoints.http_server import app
from sglang.srt.managers.io_struct import GenerateReqInput, LoadLoRAAdapterReqInput, UnloadLoRAAdapterReqInput
from sglang.srt.sampling.sampling_params import SamplingParams

classes = (GenerateReqInput, LoadLoRAAdapterReqInput, UnloadLoRAAdapterReqInput, SamplingParams)
fields = [{{name: str(kind) for each in kind.__mro__ for name, kind in getattr(each, "__annotations__", {{}}).items()}}
          for kind in classes]
routes = {{route.path: sorted(route.methods) for route in app.routes if getattr(route, "methods", None)}}
print("FOUND", json.dumps([fields, routes]))
"""


class SGLangServer(RealServer):
    """An SGLang server on a port of its own."""

    environment = {"SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # noqa: RUF012

    def command(self) -> list[str]:
        command = [PYTHON, str(LAUNCHER), "--model-path", str(self.model), "--context-length", str(self.longest)]
        return [*command, "--host", "127.0.0.1", "--port", str(self.port), *FLAGS.split()]


def test_the_stand_in_has_the_fields_and_paths_of_sglang():
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= SGLangServer.environment
    done = subprocess.run([PYTHON, "-c", SCHEMA], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, routes = json.loads(done.stdout.rpartition("FOUND ")[2])
    for fields, own in zip(found, (GENERATE, LOAD, UNLOAD, SAMPLING)):
        for name, kind in own.items():
            assert any(word in fields[name] for word in WORDS[kind]), (name, fields[name])
    assert "GET" in routes[SGLANG.about]
    for path in (SGLANG.generate, SGLANG.load, SGLANG.unload):
        assert "POST" in routes[path]


def test_twenty_steps_of_the_main_job_with_a_server_that_is_killed_and_started_again(tmp_path):
    with SGLangServer(EMBEDDED_MODEL, tmp_path / "log") as server:

        def restart():
            server.kill()
            server.start()

        watch = Watch(10, restart)
        trainer, steps = run(tmp_path / "remote", server, monitor=watch, engine="sglang", **MAIN_JOB)
    assert len(steps) == 20 and max(row["sampler_gap"] for row in steps) < GAP
    assert "which ignores seeds" in trainer.engine.description
    assert rise(steps) > 0.3


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with SGLangServer(EMBEDDED_MODEL, tmp_path_factory.mktemp("server") / "log") as server:
        yield server


@TEMPERATURES
def test_log_probabilities_are_those_of_a_trained_adapter(served, tmp_path, settings):
    check_trained_adapter(SGLANG, served, tmp_path, settings, seeded=False)
