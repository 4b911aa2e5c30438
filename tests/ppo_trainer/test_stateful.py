"""Nothing that a step changes is missing from a checkpoint."""

import copy
import random

import pytest
import torch

from ppo_lm import PPOConfig, PPOTrainer

pytestmark = pytest.mark.fast

PROMPTS = [f"SUBREDDIT: r/advice TITLE: My boss number {n} TL;DR:" for n in range(8)]
MAY_DIFFER = (  # costs, what a step only reports, and what a network or engine derives from the weights
    "clock", "floor", "engine", "prompts", "report",
)  # fmt: skip


def leaves(thing, path="trainer", seen=None):
    """Every number, text, tensor and random stream reachable from an object of the package, by its path."""
    seen = {} if seen is None else seen  # id → the thing, held so that no other gets its id
    if id(thing) in seen or path.rpartition(".")[2].lstrip("_") in MAY_DIFFER:
        return
    if isinstance(thing, (bool, int, float, str)):
        yield path, thing
        return
    seen[id(thing)] = thing
    if isinstance(thing, torch.Generator):
        yield path, thing.get_state()
    elif isinstance(thing, random.Random):
        yield path, thing.getstate()
    elif isinstance(thing, torch.Tensor):
        yield path, thing.detach().clone()
    elif isinstance(thing, (torch.optim.Optimizer, torch.nn.Module)):
        yield from leaves(thing.state_dict(), path, seen)
    elif isinstance(thing, dict):
        for name, value in thing.items():
            yield from leaves(value, f"{path}.{name}", seen)
    elif isinstance(thing, (list, tuple)):
        for place, value in enumerate(thing):
            yield from leaves(value, f"{path}.{place}", seen)
    elif type(thing).__module__.startswith(("ppo_lm", __name__)) or hasattr(thing, "state_dict"):
        names = [*getattr(thing, "__dict__", {}), *getattr(type(thing), "__slots__", ())]
        for name in names:
            yield from leaves(getattr(thing, name), f"{path}.{name}", seen)


def equal(one, other):
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def make(folder, kind=PPOTrainer, **settings):
    config = dict(model_name=folder, batch_size=4, steps=4, lora_r=4, max_new_tokens=4, learning_rate=1e-2)
    return kind(PPOConfig(**{**config, **settings}), reward=lambda completions: [len(c) / 10 for c in completions])


def forgotten(folder, kind=PPOTrainer, **settings) -> list[str]:
    """What two steps change in a trainer, and what a new trainer lacks after loading its registered parts."""
    trainer = make(folder, kind, **settings)
    before = dict(leaves(trainer))
    for start in (0, 4):
        trainer.ppo_step(PROMPTS[start : start + 4])
    after = dict(leaves(trainer))
    changed = [path for path, value in after.items() if path not in before or not equal(value, before[path])]
    assert any("weight" in path or "optimiser" in path for path in changed)
    other = make(folder, kind, **settings)
    for name, part in other.stateful_parts().items():
        part.load_state_dict(copy.deepcopy(trainer.stateful_parts()[name].state_dict()))
    restored = dict(leaves(other))
    return [path for path in changed if path not in restored or not equal(restored[path], after[path])]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lora_r": 0},
        {"value_backbone": "shared"},
        {"adaptive_kl_target": 1.0},
        {"mini_batches": 2, "ppo_epochs": 2},
    ],
    ids=str,
)
def test_the_registered_parts_hold_all_that_a_step_changes(folder, settings):
    assert forgotten(folder, **settings) == []


def test_an_unregistered_part_is_noticed(folder):
    class Counts:
        def __init__(self):
            self.count = 0

    class Extended(PPOTrainer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.extra = Counts()

        def ppo_step(self, *arguments):
            self.extra.count += 1
            return super().ppo_step(*arguments)

    assert forgotten(folder, Extended) == ["trainer.extra.count"]
