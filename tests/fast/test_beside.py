"""Adapters beside the weights against the formula, and passes that use them where they would not on a CPU."""

import pytest
import torch

from ppo_lm.fast import beside, passes
from ppo_lm.fast.adapted_linear import AdaptedLinear
from tests.fast.test_passes import NETWORKS, left_and_right_padded, states_and_gradients, with_adapter
from tests.kernels.elementwise_cases import relative_error

pytestmark = pytest.mark.fast

ROWS, INPUTS = 9, 12
OFF = {torch.float32: 1e-6, torch.bfloat16: 3e-3}


def random(*shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype)


def make_layer(outputs, rank, bias, dtype):
    adapter = (random(rank, INPUTS), random(outputs, rank)) if rank else (None, None)
    return AdaptedLinear(
        random(outputs, INPUTS, dtype=dtype), random(outputs, dtype=dtype) if bias else None, *adapter, 1.5
    )


def formula(x, layer):
    y = x.double() @ layer.weight.double().T
    if layer.a is not None:
        y = y + layer.scale * (x.double() @ layer.a.double().T @ layer.b.double().T)
    return y if layer.bias is None else y + layer.bias.double()


def room_for(x, layers):
    room = x.new_full((len(x), INPUTS + beside.rank_of(layers)), torch.nan)
    room[:, :INPUTS] = x
    return room


@pytest.mark.parametrize("dtype", OFF, ids=str)
def test_layers_with_and_without_an_adapter_give_what_the_formula_gives(dtype):
    torch.manual_seed(0)
    layers = [make_layer(5, 3, True, dtype), make_layer(4, 0, False, dtype), make_layer(7, 2, False, dtype)]
    x = random(ROWS, INPUTS, dtype=dtype)
    outputs, thin = beside.apply_in_room(room_for(x, layers), layers)
    for found, layer in zip(outputs, layers, strict=True):
        assert relative_error(found, formula(x, layer)) < 3 * OFF[dtype]
    assert (
        relative_error(thin, torch.cat([x.double() @ y.a.double().T for y in layers if y.a is not None], 1))
        < OFF[dtype]
    )


def test_the_residual_is_added_before_the_sum_is_rounded():
    torch.manual_seed(0)
    layer, x = make_layer(5, 3, False, torch.bfloat16), random(ROWS, INPUTS, dtype=torch.bfloat16)
    layer = layer._replace(a=layer.a.bfloat16().float(), b=layer.b.bfloat16().float(), scale=1.0)
    residual = random(ROWS, 5, dtype=torch.bfloat16)
    (found,), thin = beside.apply_in_room(room_for(x, [layer]), [layer], residual)
    exact = residual.double() + x.double() @ layer.weight.double().T + thin.double() @ layer.b.double().T
    assert relative_error(found, exact) <= 1.05 * relative_error(exact.bfloat16(), exact)


@pytest.mark.parametrize("family", NETWORKS)
def test_passes_give_the_same_states_and_gradients(family, monkeypatch):
    results, rooms = [], []

    def always(x, layers):
        rank, inputs = beside.rank_of(layers), layers[0].weight.shape[1]
        rooms.append(rank)
        return x.new_empty(len(x), inputs + rank) if rank else None

    for make_room in (passes.make_room, always):
        monkeypatch.setattr(passes, "make_room", make_room)
        torch.manual_seed(3)
        results.append(states_and_gradients(with_adapter(True, NETWORKS[family]()), *left_and_right_padded()))
    assert max(rooms) > 0
    (states, gradients), (found, found_gradients) = results
    torch.testing.assert_close(found, states, rtol=1e-4, atol=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))
