"""The kinds of quantisation, and quantised bases beside plain ones with the same weights."""

import importlib.util

import pytest
import torch
from torch import nn

from ppo_lm.base_setup import load_base, make_lora_config
from ppo_lm.models import BaseModel

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed (uv run --isolated --extra quantised pytest tests/quantised)",
)
NF4 = pytest.param("nf4", marks=needs_bitsandbytes)
KINDS = ["int8", NF4]


def quantised_and_plain(folder, kind, dtype="float32", fast=True) -> tuple[BaseModel, BaseModel]:
    """A quantised base, and one whose layers are ordinary ones that hold the dequantised weights."""
    base, plain = (load_base(folder, dtype, "cpu", fast=fast, quantisation=each) for each in (kind, "none"))
    plain.network.load_state_dict(base.network.state_dict())
    assert any(type(module) is nn.Linear for module in plain.network.get_decoder().modules())
    return base, plain


def add_random_adapter(base, role, dropout=0.0, size=0.1):
    base.add_adapter(role, make_lora_config(4, 8, dropout))
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in base.role_parameters(role):
            weight.normal_(std=size)


def bytes_held(network):
    return sum(tensor.nbytes for tensor in [*network.parameters(), *network.buffers()])
