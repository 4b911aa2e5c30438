"""Supervised stages that are killed or asked to stop go on bit for bit, dropout and the order of the data included."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ppo_lm.cli.main import main
from ppo_lm.config import RewardConfig, SFTConfig, ValueConfig
from ppo_lm.errors import CheckpointError, RunPaused
from ppo_lm.reward_modeling import run_reward
from ppo_lm.sft import run_sft
from ppo_lm.value_modeling import run_value
from tests.sft.conftest import DEMONSTRATIONS, signalling, write

RUN = {"sft": run_sft, "reward": run_reward, "value": run_value}
KINDS = [
    ("sft", {"lora_r": 4, "lora_dropout": 0.2}),
    ("sft", {"lora_r": 0}),
    ("reward", {"lora_r": 4, "lora_dropout": 0.2}),
    ("value", {"lora_r": 4}),
]


def make_config(kind, folder, tmp_path, out, **settings):
    both = dict(
        model_name=folder,
        held_out=8,
        epochs=3,
        batch_size=8,
        micro_batch_size=4,
        learning_rate=1e-2,
        save_every=5,
        output_dir=str(out),
        **settings,
    )
    if kind == "sft":
        return SFTConfig(demonstrations=write(tmp_path / "d.jsonl", DEMONSTRATIONS), rouge_samples=0, **both)
    if kind == "value":
        return ValueConfig(
            demonstrations=write(tmp_path / "d.jsonl", DEMONSTRATIONS), reward="length_target(words=4)", **both
        )
    rows = [
        {"prompt": d["prompt"], "chosen": d["completion"] + " Yes." * (n % 3), "rejected": "My boss." + " No" * (n % 4)}
        for n, d in enumerate(DEMONSTRATIONS)
    ]
    return RewardConfig(preferences=write(tmp_path / "p.jsonl", rows), **both)


def weights(out):
    return {file.relative_to(out): file.read_bytes() for file in sorted(out.rglob("*.safetensors"))}


@pytest.mark.parametrize(("kind", "settings"), KINDS, ids=str)
@pytest.mark.parametrize(("at", "step"), [(2, "step-000000"), (8, "step-000005")])
def test_a_stage_killed_inside_a_step_goes_on_bit_for_bit(folder, tmp_path, kind, settings, at, step):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = RUN[kind](make_config(kind, folder, tmp_path, whole, **settings), quiet=True)
    script = (
        "import signal; from pathlib import Path; from tests.sft.test_stage_resume import *\n"
        f"signalling(signal.SIGKILL, {at})\n"
        f"RUN[{kind!r}](make_config({kind!r}, {folder!r}, Path({str(tmp_path)!r}), {str(parts)!r}, "
        f"**{settings!r}), quiet=True)"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sorted(path.name for path in (parts / "checkpoints").iterdir())[-1] == step
    assert RUN[kind](make_config(kind, folder, tmp_path, parts, **settings), quiet=True, resume=parts) == expected
    assert weights(parts) == weights(whole) and len(weights(whole)) > 0
    assert (parts / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert not (parts / "checkpoints").exists()


@pytest.mark.parametrize(("kind", "settings"), KINDS, ids=str)
@pytest.mark.parametrize("at", [7, 11])
def test_a_stage_that_is_asked_to_stop_is_saved_and_goes_on_by_command(folder, tmp_path, kind, settings, at, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    RUN[kind](make_config(kind, folder, tmp_path, whole, **settings), quiet=True)
    undo = signalling(signal.SIGTERM, at)
    try:
        with pytest.raises(
            RunPaused,
            match=rf"SIGTERM was received\nThe run is saved as it was after step {at}; continue with: ppo-lm {kind} --resume {parts}",
        ):
            RUN[kind](make_config(kind, folder, tmp_path, parts, **settings), quiet=True)
    finally:
        undo()
    main([kind, "--resume", str(parts)])
    assert weights(parts) == weights(whole)
    assert (parts / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_other_settings_or_data_are_refused(folder, tmp_path):
    parts = tmp_path / "parts"
    undo = signalling(signal.SIGINT, 3)
    try:
        with pytest.raises(RunPaused):
            run_sft(make_config("sft", folder, tmp_path, parts, lora_r=4), quiet=True)
    finally:
        undo()
    with pytest.raises(CheckpointError, match="other settings: epochs was 3 and is 4"):
        run_sft(
            make_config("sft", folder, tmp_path, parts, lora_r=4).__class__(
                **{**vars(make_config("sft", folder, tmp_path, parts, lora_r=4)), "epochs": 4}
            ),
            resume=parts,
        )
    config = make_config("sft", folder, tmp_path, parts, lora_r=4)
    Path(config.demonstrations).write_text(
        "\n".join(json.dumps({**row, "completion": "I am glad."}) for row in DEMONSTRATIONS)
    )
    with pytest.raises(CheckpointError, match="the data has changed"):
        run_sft(config, resume=parts)
