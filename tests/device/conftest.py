"""What depends on the device: the same tests on a CPU and, with TEST_DEVICE=cuda, on a GPU."""

import os

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ppo_lm.base_setup import make_lora_config
from ppo_lm.models import BaseModel, PolicyModel
from tests.conftest import SMALL, make_base
from tests.rollout.conftest import EOS


@pytest.fixture
def device() -> torch.device:
    return torch.device(os.environ.get("TEST_DEVICE", "cpu"))


NETWORKS = {
    "llama": lambda size: LlamaForCausalLM(LlamaConfig(**size)),
    "qwen3": lambda size: Qwen3ForCausalLM(Qwen3Config(**size)),
}
WIDE = SMALL | dict(  # heads of a real size, and room for long rows
    hidden_size=128, intermediate_size=256, head_dim=64, max_position_embeddings=512, initializer_range=0.1
)


MORE_NETWORKS = {
    **NETWORKS,
    "heads of 128": lambda size: LlamaForCausalLM(LlamaConfig(**size | dict(head_dim=128, initializer_range=0.05))),
    "a window of 150": lambda size: MistralForCausalLM(MistralConfig(**size, sliding_window=150)),
}


def make_policy(device, family="llama", dtype=torch.float32, size=WIDE, fast=True) -> PolicyModel:
    """A random network and an adapter that changes it."""
    torch.manual_seed(3)
    network = MORE_NETWORKS[family](size).to(device, dtype)
    base = BaseModel(network, make_base().tokenizer, EOS, "random", fast)
    torch.manual_seed(3)
    base.add_adapter("policy", make_lora_config(4, 8, 0.0))
    torch.manual_seed(1)
    for name, parameter in base.network.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape) * 0.05)
    return PolicyModel(base)
