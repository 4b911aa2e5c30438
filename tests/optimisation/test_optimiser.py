"""The optimiser: weights of lower precision than fp32, and its schedules."""

import copy

import pytest
import torch

from ppo_lm.errors import NumericalFault
from ppo_lm.optimisation import SCHEDULES, Optimiser, all_or_nothing

pytestmark = pytest.mark.fast

SETTINGS = dict(schedule=SCHEDULES.find("constant"), total_steps=0, max_grad_norm=1e9)


def train(
    start: torch.Tensor, inputs: torch.Tensor, learning_rate: float, parts: int = 1
) -> tuple[torch.nn.Parameter, Optimiser]:
    weight = torch.nn.Parameter(start.clone())
    optimiser = Optimiser([weight], learning_rate, **SETTINGS)
    for x in inputs:
        for part in x.chunk(parts):
            (weight * part.to(weight.dtype)).sum().backward()
        optimiser.step()
    return weight, optimiser


def test_steps_too_small_for_bfloat16_add_up():
    """Each step moves by 1e-5, bf16's spacing at 1 is 8e-3: without an fp32 copy nothing would ever move."""
    start, inputs = torch.ones(4), torch.ones(1000, 4)
    exact, _ = train(start, inputs, 1e-5)
    rounded, optimiser = train(start.bfloat16(), inputs, 1e-5)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(optimiser.parameters[0].detach(), exact.detach(), rtol=0, atol=1e-7)
    assert torch.equal(rounded.detach(), exact.detach().bfloat16())
    assert (rounded < 1).all()


def test_gradients_of_micro_batches_are_added_up_in_float32():
    """256 + 1 is 256 in bf16."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    optimiser = Optimiser([weight], 0.1, **SETTINGS)
    for size in (256.0, 1.0, 1.0):
        (weight * size).sum().backward()
    assert optimiser.parameters[0].grad.tolist() == [258.0]
    assert weight.grad is None
    assert optimiser.step() == 258.0


def test_a_restored_optimiser_continues_bit_for_bit():
    torch.manual_seed(0)
    start, inputs = torch.randn(8), torch.randn(20, 8)
    for dtype in (torch.float32, torch.bfloat16):
        whole, _ = train(start.to(dtype), inputs, 0.01)
        half, first = train(start.to(dtype), inputs[:9], 0.01)
        weight = torch.nn.Parameter(half.detach().clone())
        second = Optimiser([weight], 0.01, **SETTINGS)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        for x in inputs[9:]:
            (weight * x.to(dtype)).sum().backward()
            second.step()
        assert torch.equal(weight, whole)


def test_the_inverse_schedule_rises_in_the_warm_up_and_falls_to_0():
    optimiser = Optimiser(
        [torch.nn.Parameter(torch.zeros(1))],
        1.0,
        schedule=SCHEDULES.find("inverse"),
        total_steps=10,
        max_grad_norm=1.0,
        warmup_steps=2,
    )
    rates = [optimiser.learning_rate]
    for _ in range(11):
        optimiser.skip(1)
        rates.append(optimiser.learning_rate)
    assert rates[:3] == [0.0, 0.5, 1.0]
    assert rates[4] == pytest.approx(0.75 / 3)
    assert rates[6] == pytest.approx(0.5 / 5)
    assert rates[10:] == [0.0, 0.0]


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_a_snapshot_undoes_updates_and_stays_on_the_weights_device(device):
    for dtype in (torch.float32, torch.bfloat16):
        weight, optimiser = train(torch.ones(4, dtype=dtype, device=device), torch.randn(3, 4, device=device), 0.1)
        before, snapshot = weight.detach().clone(), optimiser.snapshot()
        again = copy.deepcopy(optimiser.state_dict())
        for _ in range(2):
            (weight * 3).sum().backward()
            optimiser.step()
        assert not torch.equal(weight, before)
        optimiser.go_back_to(snapshot)
        assert torch.equal(weight, before)
        now = optimiser.state_dict()
        assert now.keys() == again.keys()
        assert all(torch.equal(now[k], v) if isinstance(v, torch.Tensor) else now[k] == v for k, v in again.items())
        assert {value.device for value in snapshot.values() if isinstance(value, torch.Tensor)} == {weight.device}


@pytest.mark.parametrize("updates", [1, 2])
def test_either_all_updates_of_a_block_happen_or_none(updates):
    """Two optimisers, the second of which fails in its last update: the first has already moved by then, or is held
    back."""
    for fails in (False, True):
        made = [train(torch.ones(4), torch.randn(2, 4), 0.1) for _ in range(2)]
        weights, optimisers = zip(*made)
        before = copy.deepcopy([(weight.detach(), o.state_dict()) for weight, o in made])

        def block(optimisers=optimisers, weights=weights, fails=fails):
            with all_or_nothing(optimisers, updates):
                for place, (weight, optimiser) in enumerate(zip(weights, optimisers)):
                    for update in range(updates):
                        scale = float("nan") if fails and place == 1 and update == updates - 1 else 1.0
                        (weight * scale).sum().backward()
                        optimiser.step()

        if fails:
            with pytest.raises(NumericalFault):
                block()
        else:
            block()
        for (weight, optimiser), (old, state) in zip(made, before):
            assert torch.equal(weight, old) == fails
            assert optimiser.steps_done == state["steps_done"] + (0 if fails else updates)
            assert all(parameter.grad is None for parameter in optimiser.parameters)
            (weight * 1.0).sum().backward()
            optimiser.step()  # nothing is held back any longer
            assert not torch.equal(weight, old)


def test_a_single_update_copies_nothing(monkeypatch):
    _, optimiser = train(torch.ones(4), torch.randn(2, 4), 0.1)
    monkeypatch.setattr(Optimiser, "snapshot", lambda self: pytest.fail("copied"))
    with all_or_nothing([optimiser], 1):
        pass
