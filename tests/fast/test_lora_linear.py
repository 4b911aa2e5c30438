"""peft's layers with passes of our own: linear ones, and GPT-2's, whose weight is the other way round."""

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners import lora
from transformers.pytorch_utils import Conv1D

from ppo_lm.fast.lora_linear import LoraLinear, use_own_passes

pytestmark = pytest.mark.fast

LAYERS = {"linear": lambda: torch.nn.Linear(256, 128), "GPT-2's": lambda: Conv1D(128, 256)}


def make_layers(kind, size, dtype=torch.float32):
    """(peft's, ours) with the same random weights, and B of `size`."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"layer": LAYERS[kind]().to(dtype)})
    torch.nn.init.normal_(model["layer"].bias)
    inject_adapter_in_model(
        LoraConfig(r=8, lora_alpha=16, target_modules=["layer"], fan_in_fan_out=kind != "linear"), model, "policy"
    )
    theirs = model["layer"].requires_grad_(False)
    for weights in (theirs.lora_A, theirs.lora_B):
        weights.float().requires_grad_(True)
    torch.nn.init.normal_(theirs.lora_B["policy"].weight, std=size)
    ours = copy.deepcopy(theirs)
    use_own_passes(ours)
    assert type(theirs) is lora.Linear and type(ours) is LoraLinear
    return theirs, ours


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("rows", [4, 400], ids=["thin products", "one matrix"])
def test_results_and_gradients_are_pefts(kind, rows):
    x = torch.randn(2, rows // 2, 256, generator=torch.Generator().manual_seed(1))
    results = []
    for layer in make_layers(kind, 0.3):
        given = x.clone().requires_grad_()
        y = layer(given)
        y.square().sum().backward()
        results.append([y.detach(), given.grad, *(p.grad for p in layer.parameters() if p.requires_grad)])
    assert len(results[0]) == 4
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_all_of_an_adapter_of_1e_5_is_added_in_bf16_where_peft_loses_it(kind):
    """The least-squares slope of what the adapter adds on what it should add, over a million numbers."""
    x = torch.randn(8192, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    slopes = []
    for layer in make_layers(kind, 1e-5, torch.bfloat16):
        a, b = layer.lora_A["policy"].weight.double(), layer.lora_B["policy"].weight.double()
        exact = 2 * x.double() @ a.T @ b.T
        results = []
        for on in (False, True):
            layer.enable_adapters(on)
            results.append(layer(x).double())
        slopes.append(float(((results[1] - results[0]) * exact).sum() / (exact * exact).sum()))
    theirs, ours = slopes
    assert theirs < 0.1
    assert 0.95 < ours < 1.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_an_adapter_of_zero_changes_nothing(kind, dtype):
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(1)).to(dtype)
    _, layer = make_layers(kind, 0.0, dtype)
    with_adapter = layer(x)
    layer.enable_adapters(False)
    assert torch.equal(layer(x), with_adapter)
