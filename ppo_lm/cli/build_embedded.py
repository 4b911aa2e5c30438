"""Build the embedded model as it is shipped: `ppo-lm sft`, `ppo-lm reward` and `ppo-lm value` in a row, with their
embedded settings. `ppo-lm build-embedded` runs it.

The network starts from random weights; nothing here reads the gold scorer.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from ppo_lm.config import RewardConfig, SFTConfig, ValueConfig
from ppo_lm.reward_modeling import run_reward
from ppo_lm.sft import run_sft
from ppo_lm.value_modeling import run_value

SETTINGS = Path(__file__).parents[1] / "embedded" / "settings"


def build_embedded(folder: Path, seed: int = 0, **changes) -> dict[str, float]:
    """Build everything into `folder`, the network in float16. `changes` to settings of either stage, for a smaller
    build. Returns what was measured."""
    with tempfile.TemporaryDirectory() as scratch:
        sft = _config(SFTConfig, "sft.yaml", changes | {"seed": seed, "output_dir": f"{scratch}/sft"})
        reward = _config(
            RewardConfig,
            "reward.yaml",
            changes | {"seed": seed, "model_name": f"{scratch}/sft/merged", "output_dir": f"{scratch}/reward"},
        )
        value = _config(
            ValueConfig,
            "value.yaml",
            changes
            | {
                "seed": seed,
                "model_name": f"{scratch}/sft/merged",
                "reward": f"{scratch}/reward",
                "output_dir": f"{scratch}/value",
            },
        )
        results = run_sft(sft) | run_reward(reward) | run_value(value)
        pack(
            Path(scratch) / "sft" / "merged",
            [Path(scratch) / "reward" / "reward", Path(scratch) / "value" / "value"],
            folder,
        )
    return results


def pack(network: Path, models: list[Path], folder: Path) -> None:
    """Copy a network, in float16, and the reward and value models on it into `folder`."""
    AutoModelForCausalLM.from_pretrained(network, dtype=torch.float16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(network).save_pretrained(folder)
    for model in models:
        shutil.copytree(model, folder / model.name, dirs_exist_ok=True)
        config = folder / model.name / "adapter_config.json"
        settings = json.loads(config.read_text(encoding="utf-8"))
        config.write_text(
            json.dumps({**settings, "base_model_name_or_path": "embedded"}, indent=2, sort_keys=True) + "\n",
            encoding="utf-8",
        )


def _config(kind: type, file: str, changes: dict):
    known = {field.name for field in dataclasses.fields(kind)}
    settings = yaml.safe_load((SETTINGS / file).read_text(encoding="utf-8"))
    return kind(**settings | {name: value for name, value in changes.items() if name in known})
