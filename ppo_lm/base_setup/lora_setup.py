"""LoRA settings of a role, and the layers that an adapter leaves out."""

from __future__ import annotations

from peft import LoraConfig, TaskType
from peft.tuners import lora
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

ALL_LINEAR = "all-linear"
EXPERTS = ("gate_up_proj", "down_proj")  # transformers' names for the stacked weights of all experts of a layer
EXPERTS_NAMES = {"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}  # PEFT takes them for those of experts
STATE_SPACE_OUTPUT = "out_proj"  # of which the mixers' kernels read the weights, past any adapter


def make_lora_config(r: int, alpha: float, dropout: float, targets: str = ALL_LINEAR) -> LoraConfig:
    """A LoRA adapter ("LoRA", 2106.09685) on `targets`: "all-linear" (every linear layer except the output head) or
    comma-separated module names, such as "q_proj,v_proj"."""
    modules = targets if targets == ALL_LINEAR else [name.strip() for name in targets.split(",")]
    return LoraConfig(
        r=r,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]  (peft says int, and takes any number)
        lora_dropout=dropout,
        target_modules=modules,
        task_type=TaskType.CAUSAL_LM,
    )


def layers_left_out(network: PreTrainedModel) -> dict[str, str]:
    """The names of linear layers that an adapter on this network must leave out, each with the reason, a clause.

    Experts that are stacked into one weight are no linear layers; PEFT reads their layers' former names, wherever they
    occur, as the stacked weights. PEFT also refuses the output layers of state-space mixers (Mamba).
    """
    stacked = any(p.ndim == 3 and name.endswith(EXPERTS) for name, p in network.named_parameters())
    mixers = any(hasattr(module, "ssm_state_size") for module in network.modules())
    return {
        **dict.fromkeys(EXPERTS_NAMES if stacked else (), "its experts are stacked into one weight"),
        **dict.fromkeys([STATE_SPACE_OUTPUT] if mixers else (), "its state-space layers read these weights directly"),
    }


def linear_layers(network: PreTrainedModel) -> list[str]:
    """The names of its linear layers, without the output head, whether they already have adapters or not."""
    head = network.get_output_embeddings()
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, Conv1D, lora.Linear))
        and module is not head
        and ".lora_" not in name
        and not name.endswith(".base_layer")
    ]


def last_part(name: str) -> str:
    """For example "q_proj" of "model.layers.0.self_attn.q_proj"."""
    return name.rpartition(".")[2]
