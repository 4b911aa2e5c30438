"""Which PEFT adapters can be sampled, trained and merged correctly; all others are refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.tuners import lora
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from ppo_lm.errors import ModelError, first_line
from ppo_lm.models.score_head import HEAD_FILE
from ppo_lm.reading import Unreadable, read_json

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"  # peft's names
LARGEST_CONFIG = 2**20  # bytes
LORA_WEIGHT = re.compile(r"\.lora_[AB]\.weight$")
SUPPORTED = "plain LoRA, rsLoRA, and rank and alpha patterns"
ANY_VALUE = {  # these settings define W + s·B·A, or do not affect a pass
    *(
        "peft_type",
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
    ),
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "ensure_weight_tying"),
    *("megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
}
HARMLESS = [("init_lora_weights", value) for value in ("gaussian", "orthogonal", "eva")]  # others change the base
NAMES = {
    "use_dora": "DoRA",
    "lora_bias": "an adapter bias",
    "bias": "trained biases",
    "modules_to_save": "fully trained modules",
    "trainable_token_indices": "trained token embeddings",
    "layer_replication": "replicated layers",
    "target_parameters": "adapted parameters outside linear layers",
    "alora_invocation_tokens": "activated LoRA",
    "use_qalora": "QALoRA",
    "arrow_config": "Arrow routing",
    "init_lora_weights": "an initialisation that changes the base's weights",
}


def check_adapter_config(settings: Mapping[str, Any], what: str) -> None:
    """Raise `ModelError` if a PEFT configuration asks for more than W + s·B·A on linear layers. `what`: the adapter's
    description in messages. A setting that is unknown here, such as one of a later PEFT, must be off."""
    kind = getattr(settings.get("peft_type"), "value", settings.get("peft_type"))
    if kind != "LORA":
        raise ModelError(f"{what} is of PEFT type {kind}, which ppo_lm does not support; it accepts {SUPPORTED}")
    plain = LoraConfig().to_dict()
    found = [
        f"{NAMES[name]} ({name})" if name in NAMES else name
        for name, value in settings.items()
        if name not in ANY_VALUE and value and value != plain.get(name) and (name, value) not in HARMLESS
    ]
    if found:
        raise ModelError(
            f"{what} has {' and '.join(found)}, which ppo_lm does not support; it accepts {SUPPORTED}. Train one "
            "without, or merge it into its base with PEFT's merge_and_unload and use the merged model"
        )


def check_adapter_folder(folder: str | Path) -> dict[str, Any]:
    """Raise `ModelError` if the adapter in `folder` cannot be read or is not supported. Returns its settings. Reads no
    weights, only their names."""
    what = f"adapter {str(folder)!r}"
    try:
        settings = read_json(Path(folder) / CONFIG_FILE, largest=LARGEST_CONFIG)
    except Unreadable as error:
        raise ModelError(f"{what}: {CONFIG_FILE} cannot be read: it {error}") from None
    if not isinstance(settings, dict):
        raise ModelError(f"{what}: {CONFIG_FILE} is not an object of settings")
    check_adapter_config(settings, what)
    try:
        with safe_open(Path(folder) / WEIGHTS_FILE, framework="pt") as weights:
            names = list(weights.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{what}: {WEIGHTS_FILE} cannot be read: {first_line(error)}") from None
    others = [name.removeprefix("base_model.model.") for name in names if not LORA_WEIGHT.search(name)]
    if others:
        raise ModelError(
            f"{what} has weights other than LoRA's ({', '.join(others[:3])}{', …' * (len(others) > 3)}), which ppo_lm "
            "does not support; merge it into its base with PEFT's merge_and_unload and use the merged model"
        )
    return settings


def check_writes_text(folder: Path) -> None:
    """Raise `ModelError` if the adapter in `folder` is a reward or value model's, which has a head beside it."""
    if (folder / HEAD_FILE).is_file():
        raise ModelError(
            f"adapter {str(folder)!r} is a reward or value model ({HEAD_FILE} is in its folder), which writes no text; "
            "name the adapter of a policy"
        )


def check_adapted_layers(network: PreTrainedModel, what: str) -> None:
    """Raise `ModelError` if an adapter was put on a layer that all roles share, or that cannot be merged."""
    shared = (network.get_input_embeddings(), network.get_output_embeddings())
    for name, module in network.named_modules():
        if isinstance(module, LoraLayer) and module in shared:
            raise ModelError(
                f"{what} is on {name}: all roles share the embedding and the output layer; leave these two out"
            )
        if isinstance(module, LoraLayer) and not isinstance(module, lora.Linear):
            raise ModelError(f"{what} is on {name}, which is not a linear layer; ppo_lm adapts linear layers only")
