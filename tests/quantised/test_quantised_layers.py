"""What a weight becomes in 8 or 4 bits, and layers that hold it so."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from ppo_lm.fast.quantisation import decode, encode
from ppo_lm.fast.quantised_linear import QuantisedLinear
from tests.quantised.conftest import KINDS, needs_bitsandbytes

pytestmark = pytest.mark.fast

NF4_LEVELS = [  # 2305.14314, appendix E
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]


def weight_of(outputs, inputs, dtype=torch.float32):
    return (torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0)) * 0.05).to(dtype)


def decoded(weight, kind, dtype=torch.float32):
    return decode(encode(weight, kind), weight.shape, dtype)


def test_int8_by_hand():
    """127 · weight / the largest of the row, rounded; halves to even."""
    encoded = encode(torch.tensor([[2.0, -1.0, 0.25, 0.0], [0.0] * 4, [0.5, 0.25, -0.5, 0.125]]), "int8")
    codes = torch.tensor([[127, -64, 16, 0], [0] * 4, [127, 64, -127, 32]])
    assert torch.equal(encoded["codes"], codes.to(torch.int8)) and encoded["scales"].tolist() == [2.0, 0.0, 0.5]
    expected = codes * torch.tensor([[2.0], [0.0], [0.5]]) / 127
    torch.testing.assert_close(decode(encoded, codes.shape, torch.float32), expected)


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_is_that_of_bitsandbytes(dtype):
    from bitsandbytes import functional

    weight = weight_of(96, 256, dtype)
    codes, scales, _ = functional.int8_vectorwise_quant(weight.half())
    encoded = encode(weight, "int8")
    assert torch.equal(encoded["codes"], codes) and torch.equal(encoded["scales"], scales)
    assert torch.equal(decode(encoded, weight.shape, torch.float32), functional.int8_vectorwise_dequant(codes, scales))


@needs_bitsandbytes
def test_nf4_takes_the_nearest_level_of_the_paper_times_the_largest_weight_of_a_block():
    weight = weight_of(96, 256)
    blocks = weight.view(-1, 64)
    largest = blocks.abs().amax(dim=1, keepdim=True)
    levels = torch.tensor(NF4_LEVELS)
    nearest = levels[((blocks / largest)[:, :, None] - levels).abs().argmin(dim=2)]
    found = decoded(weight, "nf4").view(-1, 64)
    scales = found.abs().amax(dim=1, keepdim=True)  # which are rounded to 8 bits themselves
    torch.testing.assert_close(found / scales, nearest, rtol=0, atol=1e-6)
    torch.testing.assert_close(scales, largest, rtol=0.03, atol=0)


@needs_bitsandbytes
def test_nf4_takes_the_bits_of_the_paper():
    """4 bits a weight, 8 for each 64 of them, 32 for each 64·256; and tables of levels."""
    weight = weight_of(512, 512)
    tables = ("levels", "scales_levels", "scales_mean")
    held = sum(tensor.nbytes for name, tensor in encode(weight, "nf4").items() if name not in tables)
    assert 8 * held / weight.numel() == 4 + 8 / 64 + 32 / (64 * 256)


@pytest.mark.parametrize(("kind", "error"), [("int8", 0.01), (pytest.param("nf4", 0.1, marks=needs_bitsandbytes))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoded_weight_is_near_the_weight(kind, error, dtype):
    weight = weight_of(96, 256, dtype)
    found = decoded(weight, kind, dtype)
    assert found.dtype == dtype
    distance = float((found.float() - weight.float()).norm() / weight.float().norm())
    assert error / 5 < distance < error


def layers(kind, dtype=torch.float32, bias=True):
    """(quantised, plain with the dequantised weight)."""
    torch.manual_seed(0)
    given = nn.Linear(256, 96, bias).to(dtype).requires_grad_(False)
    quantised = QuantisedLinear(given, kind, torch.device("cpu"))
    plain = nn.Linear(256, 96, bias).to(dtype).requires_grad_(False)
    plain.load_state_dict(quantised.state_dict())
    if bias:
        assert torch.equal(plain.bias, given.bias)
    return quantised, plain


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_a_plain_one_with_the_dequantised_weight(kind, dtype, bias):
    x = torch.randn(2, 5, 256, generator=torch.Generator().manual_seed(1)).to(dtype)
    results = []
    for layer in layers(kind, dtype, bias):
        given = x.clone().requires_grad_()
        y = layer(given)
        y.float().square().sum().backward()
        results.append((y.detach(), given.grad))
    for found, expected in zip(*results, strict=True):
        assert found.dtype == dtype
        tolerances = {} if dtype == torch.float32 else dict(rtol=2e-2, atol=4e-3)  # the bias is added to rounded sums
        torch.testing.assert_close(found, expected, **tolerances)


@pytest.mark.parametrize("kind", KINDS)
def test_no_dense_weight_is_kept_for_the_backward_pass(kind):
    kept = []
    quantised, _ = layers(kind)
    x = torch.randn(3, 256, requires_grad=True)
    with saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = quantised(x)
    assert sum(tensor.numel() for tensor in kept) < quantised.in_features * quantised.out_features / 8
    y.sum().backward()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_added_for_good_is_not_quantised(kind):
    quantised, _ = layers(kind)
    before = quantised.weight
    for seed in (1, 2):  # two adapters, one after the other
        g = torch.Generator().manual_seed(seed)
        a, b = torch.randn(4, 256, generator=g) * 1e-3, torch.randn(96, 4, generator=g) * 1e-3
        quantised.add(a, b, 2.0)
        before = before + 2.0 * b @ a
    torch.testing.assert_close(quantised.weight, before, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(quantised.state_dict()["weight"], before, rtol=1e-5, atol=1e-8)
