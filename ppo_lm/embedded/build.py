"""Build the embedded model as it is shipped: `ppo-lm sft` and `ppo-lm reward` in a row, with their embedded settings. `ppo-lm build-embedded` runs it.

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

from ppo_lm.config import RewardConfig, SFTConfig
from ppo_lm.reward_modeling import run_reward
from ppo_lm.sft import run_sft

SETTINGS = Path(__file__).parent / "settings"


def build_embedded(folder: Path, seed: int = 0, **changes) -> dict[str, float]:
    """Build everything into `folder`, the network in float16. `changes` to settings of either stage, for a smaller build. Returns what was measured."""
    with tempfile.TemporaryDirectory() as scratch:
        sft = _config(SFTConfig, "sft.yaml", changes | {"seed": seed, "output_dir": f"{scratch}/sft"})
        reward = _config(RewardConfig, "reward.yaml", changes | {"seed": seed, "model_name": f"{scratch}/sft/merged", "output_dir": f"{scratch}/reward"})
        results = run_sft(sft) | run_reward(reward)
        pack(Path(scratch) / "sft" / "merged", Path(scratch) / "reward" / "reward", folder)
    return results


def pack(network: Path, reward: Path, folder: Path) -> None:
    """Copy a network, in float16, and a reward model on it into `folder`."""
    AutoModelForCausalLM.from_pretrained(network, dtype=torch.float16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(network).save_pretrained(folder)
    shutil.copytree(reward, folder / "reward", dirs_exist_ok=True)
    config = folder / "reward" / "adapter_config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**settings, "base_model_name_or_path": "embedded"}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _config(kind: type, file: str, changes: dict):
    known = {field.name for field in dataclasses.fields(kind)}
    settings = yaml.safe_load((SETTINGS / file).read_text(encoding="utf-8"))
    return kind(**settings | {name: value for name, value in changes.items() if name in known})
