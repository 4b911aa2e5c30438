"""A run whose reward fails is saved as it was before the batch, and continues as if nothing had happened."""

import re
import subprocess
import sys

import pytest
import yaml
from safetensors.torch import load_file

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.cli.main import main
from ppo_lm.errors import CheckpointError, RewardError, RunPaused
from tests.ppo_trainer.conftest import PROMPTS, make, metrics


class Flaky:
    """A reward by length that fails at its `fails`-th call."""

    def __init__(self, fails=None):
        self.calls, self.fails = 0, fails

    def __call__(self, prompts, completions):
        self.calls += 1
        if self.calls == self.fails:
            raise ConnectionError("the judge is out")
        return [len(c) / 10 for c in completions]


# With evaluations of two calls at steps 0, 2, 4 and 5, the calls are: e e 1 2 e e 3 4 e e 5 e e
PLACES = {
    "first evaluation": (1, 0),
    "first step": (3, 0),
    "step 3": (7, 2),
    "evaluation at 2": (6, 2),
    "last evaluation": (12, 5),
}
KINDS = [
    {"lora_r": 4},
    {"lora_r": 0},
    {"lora_r": 0, "dtype": "bfloat16"},
    {"lora_r": 4, "value_backbone": "shared"},
    {"lora_r": 4, "advantage_estimator": "rloo", "responses_per_prompt": 2},
]


@pytest.mark.parametrize(
    ("settings", "place"),
    [*((KINDS[0], place) for place in PLACES), *((settings, "step 3") for settings in KINDS[1:])],
    ids=str,
)
def test_a_paused_run_ends_bit_for_bit_like_one_that_was_not(folder, undisturbed, tmp_path, settings, place):
    parts, (fails, after) = tmp_path / "parts", PLACES[place]
    expected, whole = undisturbed(Flaky, **settings)
    with pytest.raises(
        RunPaused,
        match=r"the judge is out\n  File .*test_resume.py(?:.*\n)+"
        rf"The run was saved as it was after step {after}; continue with:\n"
        rf"    trainer.train\(..., resume='{parts}'\)",
    ):
        make(folder, parts, Flaky(fails), **settings).train(PROMPTS)
    found = make(folder, parts, Flaky(), **settings).train(PROMPTS, resume=parts)
    weights = "adapter/adapter_model.safetensors" if settings["lora_r"] else "merged/model.safetensors"
    assert (parts / weights).read_bytes() == (whole / weights).read_bytes()
    assert metrics(parts) == metrics(whole)
    assert (parts / "samples.jsonl").read_text() == (whole / "samples.jsonl").read_text()
    assert found == expected
    assert next((parts / "checkpoints").iterdir()).name.startswith("step-000005")  # to extend it


def test_a_run_can_be_paused_twice(folder, undisturbed, tmp_path):
    expected, whole = undisturbed(Flaky, lora_r=4)
    out = tmp_path / "parts"
    with pytest.raises(RunPaused, match="after step 1"):
        make(folder, out, Flaky(4), lora_r=4).train(PROMPTS)
    with pytest.raises(RunPaused, match="after step 3"):
        make(folder, out, Flaky(5), lora_r=4).train(PROMPTS, resume=out)
    assert make(folder, out, Flaky(), lora_r=4).train(PROMPTS, resume=out) == expected
    assert metrics(out) == metrics(whole)


def test_without_a_folder_there_is_nothing_to_resume_from(folder):
    with pytest.raises(RewardError, match="the judge is out"):
        make(folder, "unused", Flaky(3), output_dir=None).train(PROMPTS)


def test_another_run_cannot_be_resumed(folder, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(RunPaused):
        make(folder, out, Flaky(4)).train(PROMPTS)
    with pytest.raises(
        CheckpointError,
        match="has changed: kl_coef was 0.1 and is 0.3; undo this, or continue anyway",
    ):
        make(folder, out, Flaky(), kl_coef=0.3).train(PROMPTS, resume=out)
    with pytest.raises(CheckpointError, match=r"the rewards was \['Flaky'\] and is \[\]"):
        make(folder, out, None).train(PROMPTS, resume=out)
    with pytest.raises(CheckpointError, match="the run to resume has changed: the prompts changed"):
        make(folder, out, Flaky()).train(PROMPTS[::-1], resume=out)
    with pytest.raises(CheckpointError, match="there is no checkpoint in it"):
        make(folder, out, Flaky()).train(PROMPTS, resume=tmp_path)
    for checkpoint in (out / "checkpoints").iterdir():
        (checkpoint / "tensors.safetensors").write_bytes(b"torn")
    with pytest.raises(
        CheckpointError, match="step-000001 is damaged: tensors.safetensors does not match its checksum"
    ):
        make(folder, out, Flaky()).train(PROMPTS, resume=out)


def test_the_command_to_resume_fits_how_the_run_was_started(folder, tmp_path):
    broken = tmp_path / "judge.py"
    broken.write_text("def judge(completions):\n    raise ConnectionError('out')\n")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    by_name = dict(reward=f"{broken}:judge", prompts=str(prompts), eval_prompts=0)
    config = PPOConfig(model_name=folder, output_dir=str(tmp_path / "a"), **by_name)
    with pytest.raises(RunPaused, match="continue with:\n    ppo-lm train --resume"):
        PPOTrainer(config).train()
    config = PPOConfig(model_name=folder, output_dir=str(tmp_path / "b"), **by_name)
    with pytest.raises(RunPaused, match=r"continue with:\n    trainer.train\(..., resume="):
        PPOTrainer(config).train(PROMPTS)
    other = PPOConfig(
        model_name=folder, output_dir=str(tmp_path / "a"), **{**by_name, "reward": "length_target(words=3)"}
    )
    with pytest.raises(
        CheckpointError, match=r"the rewards was \['.*judge.py:judge'\] and is \['length_target\(words=3\)'\]"
    ):
        PPOTrainer(other).train(resume=tmp_path / "a")


def test_resume_on_the_command_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(tmp_path)])
    assert "it has no config.yaml" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(SystemExit) as caught:
        main(["train", "--resume", str(tmp_path), "--kl_coef", "0.3", "--output_dir", "elsewhere", "--steps", "7"])
    said = capsys.readouterr().err
    assert caught.value.code == 1 and "2 problems" in said and "--output_dir does not go with --resume" in said
    assert "--kl_coef would change the results" in said and "--steps can always be set" in said


def test_a_scorer_that_dies_mid_run_pauses_it_until_it_is_back(folder, tmp_path, capsys):
    """End to end: a real server killed between two steps, exit code 75, the server started again, --resume."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    server = [sys.executable, "-u", "-c", SERVER]
    process = subprocess.Popen([*server, "0", "4"], stdout=subprocess.PIPE, text=True)
    port = re.search(r"port (\d+)", process.stdout.readline())[1]
    out = tmp_path / "run"
    settings = dict(
        model_name=folder,
        prompts=str(prompts),
        reward=f"remote(url='http://127.0.0.1:{port}/', attempts=2, wait=0.05)",
        batch_size=4,
        steps=4,
        eval_prompts=0,
        output_dir=str(out),
        save_merged=False,
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit) as paused:
        main(["train", "--config", str(tmp_path / "config.yaml")])
    process.wait()
    said = capsys.readouterr().err
    assert paused.value.code == 75, said
    assert f"--resume {out}" in said and "failed 2 times" in said
    assert [row["step"] for row in metrics(out)] == [1, 2, 3, 4][: len(metrics(out))] and 0 < len(metrics(out)) < 4

    process = subprocess.Popen([*server, port, "100"], stdout=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        main(["train", "--resume", str(out)])
    finally:
        process.kill()
        process.wait()
    assert [row["step"] for row in metrics(out)] == [1, 2, 3, 4]
    assert (out / "adapter" / "adapter_config.json").is_file()


# A scorer by length on port argv[1] that dies, in the middle of a request, at its argv[2]-th.
SERVER = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
left = int(sys.argv[2])
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        global left
        left -= 1
        if left <= 0:
            os._exit(9)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps({"scores": [len(c) / 10 for c in body["completions"]]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_):
        pass
HTTPServer.allow_reuse_address = True
server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("port", server.server_port)
server.serve_forever()
"""


def test_the_policy_that_did_best_on_held_out_prompts_is_kept(folder, tmp_path):
    """By the monitor, which likes the policy after step 4 most."""
    planned, calls, policies = {1: 0.0, 5: 1.0, 9: 2.0, 13: 1.0}, [], []

    def monitor(completions):
        """Its calls are, with two for each evaluation: e e 1 2 e e 3 4 e e 5 6 e e."""
        calls.append(1)
        return [planned.get(len(calls), 0.0)] * len(completions)

    config = PPOConfig(
        model_name=folder,
        batch_size=4,
        steps=6,
        eval_prompts=4,
        eval_every=2,
        learning_rate=0.05,
        output_dir=str(tmp_path / "run"),
        save_merged=False,
        lora_r=4,
    )
    trainer = PPOTrainer(config, reward=Flaky(), monitor=monitor)
    step = trainer.ppo_step

    def remember(*batch):
        results = step(*batch)
        policies.append(sums(trainer.roles.policy.parameters()))
        return results

    trainer.ppo_step = remember
    evaluations = trainer.train(PROMPTS)
    assert [evaluation.monitor for evaluation in evaluations["sampled"]] == [0.0, 1.0, 2.0, 1.0]
    kept = load_file(tmp_path / "run" / "best" / "adapter" / "adapter_model.safetensors")
    assert [number for number, policy in enumerate(policies, start=1) if policy == sums(kept.values())] == [4]


def sums(tensors):
    return sorted(float(tensor.detach().double().sum()) for tensor in tensors)
