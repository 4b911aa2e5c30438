"""`ppo-lm build-embedded`: the model that comes with the package, from random weights.

It runs `ppo-lm sft`, `ppo-lm reward` and `ppo-lm value` with their embedded settings. Nothing here reads the gold
scorer.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, TypeVar

from ppo_lm.cli.parser import Parser
from ppo_lm.config import RewardConfig, SFTConfig, ValueConfig
from ppo_lm.config.fields import fields_of
from ppo_lm.config.files import embedded_settings
from ppo_lm.config.settings import Settings
from ppo_lm.errors import writing
from ppo_lm.reading import user_path

Config = TypeVar("Config", bound=Settings)


def make_parser(prog: str) -> Parser:
    """The options of the command."""
    parser = Parser(
        prog,
        "Build the embedded model, with its reward and value model, from random weights.",
        "--output_dir FOLDER [--seed N]",
    )
    group = parser.add_argument_group("Everyday options")
    group.add_argument("--output_dir", required=True, metavar="FOLDER", help="Folder for the model.")
    group.add_argument("--seed", type=int, metavar="N", help="Random seed: weights, data order. [0]")
    parser.add_general_group()
    return parser


def run(arguments: list[str], prog: str) -> None:
    """Build the model, and print what was measured."""
    options = make_parser(prog).parse(arguments)
    for name, value in build_embedded(user_path(options["output_dir"], "output_dir"), options.get("seed", 0)).items():
        print(f"{name}: {value:.4f}")


def build_embedded(folder: Path, seed: int = 0, **changes: Any) -> dict[str, float]:
    """Build everything into `folder`, the network in float16. `changes` to the settings of any stage, for a smaller
    build. Returns what was measured."""
    from ppo_lm.reward_modeling import run_reward
    from ppo_lm.sft import run_sft
    from ppo_lm.value_modeling import run_value

    with tempfile.TemporaryDirectory() as scratch:
        sft, reward, value = (Path(scratch) / stage for stage in ("sft", "reward", "value"))
        changes |= {"seed": seed}
        results = run_sft(_config(SFTConfig, "sft", changes | {"output_dir": str(sft)}))
        changes |= {"model_name": str(sft / "merged")}
        results |= run_reward(_config(RewardConfig, "reward", changes | {"output_dir": str(reward)}))
        changes |= {"reward": str(reward)}
        results |= run_value(_config(ValueConfig, "value", changes | {"output_dir": str(value)}))
        pack(sft / "merged", [reward / "reward", value / "value"], folder)
    return results


def pack(network: Path, models: list[Path], folder: Path) -> None:
    """Copy a network, in float16, and the reward and value models on it into `folder`."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ppo_lm.models.adapter_check import WEIGHTS_FILE

    base = AutoModelForCausalLM.from_pretrained(network, dtype=torch.float16)
    tokenizer = AutoTokenizer.from_pretrained(network)
    with writing(folder):
        base.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for model in models:
            place, ignore = folder / model.name, shutil.ignore_patterns("classifier")
            shutil.copytree(model, place, ignore=ignore, dirs_exist_ok=True)
            weights = load_file(place / WEIGHTS_FILE)  # without the sketch of the network in fp32
            save_file(weights, place / WEIGHTS_FILE)
            file = place / "adapter_config.json"
            settings = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": "embedded"}
            file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _config(config: type[Config], command: str, changes: dict[str, Any]) -> Config:
    known = {name: value for name, value in changes.items() if name in fields_of(config)}
    return config(**embedded_settings(command) | known)
