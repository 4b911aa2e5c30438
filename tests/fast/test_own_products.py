"""Our own matrix products, and decode steps of one call, where they are on and off: CI's processor may have either."""

import pytest
import torch

from ppo_lm import kernels
from ppo_lm.fast.decoder import Decoder
from ppo_lm.fast.kv_cache import KVCache
from ppo_lm.kernels import cpu
from tests.conftest import WHY_NO_KERNELS
from tests.fast.test_passes import NETWORKS, left_and_right_padded, states_and_gradients, with_adapter
from tests.kernels.elementwise_cases import relative_error

pytestmark = [pytest.mark.fast, pytest.mark.skipif(bool(WHY_NO_KERNELS), reason=str(WHY_NO_KERNELS))]


@pytest.fixture
def switch(monkeypatch):
    return lambda on: monkeypatch.setattr(cpu, "products_are_ahead", lambda dtype: on)


def make(family, dtype=torch.float32):
    torch.manual_seed(3)
    network = NETWORKS[family]().to(dtype)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return with_adapter(True, network)


@pytest.mark.parametrize("family", NETWORKS)
def test_passes_give_the_states_and_gradients_of_torchs_products(family, switch):
    ids, mask = left_and_right_padded()
    results = []
    for on in (False, True):
        switch(on)
        assert (kernels.find_products(torch.zeros(1, 1)) is not None) == on
        results.append(states_and_gradients(make(family), ids, mask))
    (expected, slopes), (found, own_slopes) = results
    assert relative_error(found, expected.double()) < 1e-5
    assert own_slopes.keys() == slopes.keys()
    for name, slope in slopes.items():
        assert relative_error(own_slopes[name], slope.double()) < 1e-5, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", NETWORKS)
def test_a_decode_step_in_one_call_is_that_of_its_parts(family, dtype, switch, monkeypatch):
    """The same kernels in the same order, so that not a bit differs."""
    switch(True)
    base, (ids, mask) = make(family, dtype), left_and_right_padded()
    found = []
    with torch.no_grad():
        for whole in (True, False):
            if not whole:
                monkeypatch.setattr(Decoder, "parts", None)
            cache = KVCache(base.paths.accelerated.decoder("policy", rows=5), 5, ids.shape[1] + 6)
            hidden = [cache.read(list(range(5)), ids, mask)]
            for step in range(4):
                hidden.append(cache.step(ids[: len(cache.rows), step]))
                if step == 1:
                    cache.remove([1, 3])
            assert (cache.memory.decoder.parts is not None) == whole
            found.append([*hidden, cache.memory.keys, cache.memory.values])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_weights_of_another_dtype_are_left_to_the_parts(switch):
    switch(True)
    base = make("qwen3", torch.bfloat16)
    with torch.no_grad():
        assert base.paths.accelerated.decoder("policy", rows=5).parts is not None
        base.network.get_decoder().layers[1].self_attn.k_norm.float()
        assert base.paths.accelerated.decoder("policy", rows=5).parts is None
