"""Optimisers and schedules of the user's own: restored and undone bit for bit, and what is refused before any model."""

import copy
import math

import pytest
import torch

from ppo_lm.config import PPOConfig, SFTConfig
from ppo_lm.errors import ConfigError, NumericalFault
from ppo_lm.optimisation import SCHEDULES, Optimiser, all_or_nothing, find_optimiser_parts
from ppo_lm.optimisation.parts import try_optimiser

pytestmark = pytest.mark.fast


class Momentum(torch.optim.Optimizer):
    """Keeps a bf16 tensor, a number and a list of each weight, and counts in its group, as Prodigy does."""

    def __init__(self, params, lr, eps):
        super().__init__(params, {"lr": lr, "eps": eps, "k": 0, "seen": torch.zeros(())})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] += 1
            group["seen"] += 0.5
            for weight in group["params"]:
                kept = self.state[weight]
                kept["mean"] = (kept.get("mean", 0) * 0.9 + weight.grad).bfloat16()
                kept["largest"] = max(kept.get("largest", 0.0), float(weight.grad.abs().max()))
                size = group["lr"] / (group["k"] + float(group["seen"]) + kept["largest"])
                weight -= size * kept["mean"].float()


class TwoGroups(Momentum):
    """The second weight learns at a tenth of the rate."""

    def __init__(self, params, lr, eps):
        first, *others = params
        super().__init__([{"params": [first]}], lr, eps)
        self.add_param_group({"params": others, "lr": lr / 10, "seen": torch.zeros(())})


class NoMomentum(torch.optim.SGD):
    def __init__(self, params, lr, eps):
        super().__init__(params, lr=lr)


def make(kind, dtype=torch.float32, total_steps=20, schedule=None):
    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3).to(dtype)) for _ in range(2)]
    schedule = schedule or SCHEDULES.find("cosine")
    return weights, Optimiser(weights, 0.1, schedule=schedule, total_steps=total_steps, max_grad_norm=1.0, make=kind)


def train(weights, optimiser, steps, start=0):
    for step in range(start, start + steps):
        for weight in weights:
            (weight * math.cos(step + 1)).pow(2).sum().backward()
        optimiser.step()


def adafactor(weights, lr, eps):
    return torch.optim.Adafactor(weights, lr=lr, eps=(None, eps))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [Momentum, TwoGroups, NoMomentum, torch.optim.NAdam, adafactor])
def test_a_restored_one_continues_bit_for_bit(kind, dtype):
    whole, optimiser = make(kind, dtype)
    train(whole, optimiser, 10)
    first, earlier = make(kind, dtype)
    train(first, earlier, 4)
    state, second = copy.deepcopy(earlier.state_dict()), make(kind, dtype)
    for new, old in zip(second[0], first):
        new.data.copy_(old)
    second[1].load_state_dict(state)
    train(*second, 6, start=4)
    assert all(torch.equal(one, other) for one, other in zip(second[0], whole))
    assert second[1].learning_rate == optimiser.learning_rate


@pytest.mark.parametrize("kind", [Momentum, TwoGroups, torch.optim.NAdam])
def test_a_failed_block_undoes_all_that_it_changed(kind):
    weights, optimiser = make(kind)
    train(weights, optimiser, 2)
    before, state = [weight.detach().clone() for weight in weights], copy.deepcopy(optimiser.state_dict())

    def block():
        with all_or_nothing([optimiser], 3):
            train(weights, optimiser, 2)
            (weights[0] * math.nan).sum().backward()
            optimiser.step()

    with pytest.raises(NumericalFault):
        block()
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before))
    now = optimiser.state_dict()
    assert now.keys() == state.keys()
    assert all(torch.equal(now[k], v) if isinstance(v, torch.Tensor) else now[k] == v for k, v in state.items())


def test_what_the_code_sets_in_a_group_is_not_restored_from_a_checkpoint():
    weights, optimiser = make(Momentum)
    train(weights, optimiser, 1)
    saved = optimiser.state_dict()
    assert {name for name in saved if name.startswith("group")} == {"group 0.k", "group 0.seen"}  # neither lr nor eps


def test_every_group_follows_the_schedule_from_its_own_peak():
    _, optimiser = make(TwoGroups, schedule=lambda share: 1 - share**2, total_steps=4)
    for expected in (1.0, 1 - 1 / 16, 1 - 1 / 4, 1 - 9 / 16, 0.0, 0.0):
        rates = [group["lr"] for group in optimiser.inner.param_groups]
        assert rates == pytest.approx([0.1 * expected, 0.01 * expected])
        assert optimiser.learning_rate == rates[0]
        optimiser.skip(1)


def test_an_own_schedule_follows_the_warm_up_and_is_restored_by_the_number_of_updates():
    def make_one():
        weight = torch.nn.Parameter(torch.zeros(1))
        own = lambda share: 2 - share  # noqa: E731
        return Optimiser([weight], 1.0, schedule=own, total_steps=10, max_grad_norm=1.0, warmup_steps=2)

    optimiser, rates = make_one(), []
    for _ in range(12):
        rates.append(optimiser.learning_rate)
        optimiser.skip(1)
    assert rates[:4] == [0.0, 0.5, 2.0, 2 - 1 / 8]
    assert rates[10:] == [1.0, 1.0]
    again = make_one()
    again.load_state_dict({"steps_done": 3})
    assert again.learning_rate == rates[3]


FILE = """
import torch
from torch.optim import LBFGS, SGD


def words(weights, lr, eps):
    return "AdamW"


def one(weights, lr, eps):
    return SGD(weights[:1], lr=lr)


def lbfgs(weights, lr, eps):
    return LBFGS(weights, lr=lr)


def no_eps(weights, lr):
    return SGD(weights, lr=lr)


class Nested(SGD):
    def __init__(self, weights, lr, eps):
        super().__init__(weights, lr=lr)

    def step(self):
        for weight in self.param_groups[0]["params"]:
            self.state[weight]["factors"] = {"left": torch.ones(1)}


def negative(share):
    return 0.5 - share


def not_a_number(share):
    return float("nan")


def nothing(share):
    pass


def raises(share):
    return 1 / (1 - share)
"""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(optimiser="words"), "returned str; it must return a torch.optim.Optimizer"),
        (dict(optimiser="one"), "was given 2 weights but updates 1"),
        (dict(optimiser="lbfgs"), "needs a closure"),
        (dict(optimiser="no_eps"), r"raised TypeError when tried on two small weights: .*'eps'"),
        (dict(optimiser="Nested"), "keeps 'factors', of type dict, which a checkpoint cannot hold"),
        (dict(lr_schedule="negative"), r"is -0.01 at 0.51 of the run; it must be a finite number of at least 0"),
        (dict(lr_schedule="not_a_number"), "is nan at 0 of the run"),
        (dict(lr_schedule="nothing"), "returned NoneType at 0 of the run"),
        (dict(lr_schedule="raises"), r"raised ZeroDivisionError at 1 of the run(.|\n)*own.py., line \d+, in raises"),
    ],
)
def test_what_cannot_be_used_is_refused_with_where(settings, message, tmp_path):
    (tmp_path / "own.py").write_text(FILE)
    ((setting, name),) = settings.items()
    with pytest.raises(ConfigError, match=rf"{setting} '{tmp_path}/own.py:{name}'(.|\n)*{message}"):
        find_optimiser_parts(PPOConfig(**{setting: f"{tmp_path}/own.py:{name}"}))


def test_a_schedule_that_fails_where_it_was_not_tried_is_named():
    def thirds(share):
        return -1.0 if share == 1 / 3 else 1.0

    settings = dict(schedule=thirds, total_steps=3, max_grad_norm=1.0)
    with pytest.raises(ConfigError, match=r"lr_schedule 'thirds' is -1 at 0.333333 of the run"):
        Optimiser([torch.nn.Parameter(torch.zeros(1))], 1.0, **settings)


def test_all_unknown_names_are_reported_at_once():
    with pytest.raises(ConfigError, match=r"2 problems(.|\n)*'adamw'(.|\n)*linear, cubic, inverse, cosine, constant"):
        find_optimiser_parts(PPOConfig(optimiser="adam", lr_schedule="step"))


@pytest.mark.parametrize("name", ["adamw", "torch.optim:NAdam", "torch.optim:RAdam", "torch.optim:Adamax"])
def test_the_defaults_and_torch_s_own_classes_can_be_used(name):
    parts = find_optimiser_parts(SFTConfig(optimiser=name))
    try_optimiser(name, parts.make)
    assert parts.schedule is SCHEDULES.find("cosine")
