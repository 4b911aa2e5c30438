"""The value model's first update, whose gradients come from the pass that predicts the values."""

import pytest
import torch

from ppo_lm.advantage import ESTIMATORS, Estimator
from ppo_lm.advantage.estimators import add_gae
from ppo_lm.config import PPOConfig
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.ppo_trainer import ValueAdder
from tests.ppo_trainer.conftest import FOUR_PROMPTS, fixed_pairs, setup, trainer

pytestmark = pytest.mark.fast


def watched(**settings):
    """A trainer for `fixed_pairs`, the gradients of its value model's updates, and its passes."""
    model_trainer, roles = setup(**{"mini_batches": 1, "ppo_epochs": 2, "max_grad_norm": 1e9, **settings})
    optimiser, caught, passes = model_trainer.value_optimiser, [], []
    optimiser.inner.register_step_pre_hook(
        lambda *_: caught.append(torch.cat([p.grad.flatten() for p in optimiser.parameters]))
    )
    values = roles.value.values
    roles.value.values = lambda part: (passes.append(part.sequences), values(part))[1]
    return model_trainer, roles.value, caught, passes


def train_after_scoring(pairs, **settings):
    model_trainer, value, caught, passes = watched(**settings)
    pairs = ValueAdder(value, MemoryBudget(model_trainer.budget.tokens)).add_values_to_sa_pairs(pairs)
    metrics = model_trainer.train_value_model(add_gae(pairs, model_trainer.config))
    return pairs.values, caught, metrics, sum(passes)


def train_from_scoring(model_trainer, caught, passes, pairs):
    values = model_trainer.begin_value_update(pairs, add_gae)
    metrics = model_trainer.train_value_model(add_gae(pairs.with_columns(values=values), model_trainer.config))
    return values, caught, metrics, sum(passes)


def alike(found, expected):
    for mine, theirs in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))
    assert found[2] == pytest.approx(expected[2], rel=1e-5)


@pytest.mark.parametrize("tokens", [30, 200])
@pytest.mark.parametrize("holes", [False, True])
def test_its_gradients_are_those_of_a_pass_of_its_own(tokens, holes):
    pairs = fixed_pairs(holes=holes)
    expected = train_after_scoring(pairs, micro_batch_tokens=tokens)
    model_trainer, _, *seen = watched(micro_batch_tokens=tokens)
    found = train_from_scoring(model_trainer, *seen, pairs)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-6)
    alike(found, expected)
    assert (found[3], expected[3]) == (2 * pairs.sequences, 3 * pairs.sequences)


def test_it_is_forgotten_when_other_pairs_are_trained_on():
    model_trainer, value, caught, _ = watched()
    model_trainer.begin_value_update(fixed_pairs(seed=1), add_gae)
    pairs = ValueAdder(value).add_values_to_sa_pairs(fixed_pairs())
    metrics = model_trainer.train_value_model(add_gae(pairs, model_trainer.config))
    alike((None, caught, metrics), train_after_scoring(fixed_pairs()))


def test_when_memory_runs_out_it_starts_over():
    model_trainer, value, caught, passes = watched(micro_batch_tokens=60)
    values, failed = value.values, []

    def cramped(part):
        if len(passes) == 1 and not failed:
            failed.append(part)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return values(part)

    value.values = cramped
    found = train_from_scoring(model_trainer, caught, passes, fixed_pairs())
    assert failed and model_trainer.budget.tokens < 60
    alike(found, train_after_scoring(fixed_pairs()))


@pytest.mark.parametrize("name", [name for name in ESTIMATORS.names if ESTIMATORS.find(name).row_by_row])
def test_an_estimator_that_says_so_estimates_each_row_by_itself(name):
    config = PPOConfig(advantage_estimator=name, lam_length_scale=0.5, value_target="returns", value_lam=1.0, gamma=0.9)
    estimate, pairs = ESTIMATORS.find(name).add_advantages, fixed_pairs(holes=True)
    together = estimate(pairs, config)
    for row in range(pairs.sequences):
        rows = torch.tensor([row])
        alone = estimate(pairs.select(rows), config)
        for column in ("advantages", "returns", "reward_to_go"):
            assert torch.equal(getattr(alone, column), getattr(together, column)[rows])


def test_a_step_learns_as_it_would_with_a_pass_of_its_own(folder):
    settings = dict(mini_batches=1, ppo_epochs=2, learning_rate=1e-3)
    found, expected = (trainer(folder, **settings) for _ in range(2))
    expected.value_adder.begin_update = None
    for _ in range(2):
        mine, theirs = (each.ppo_step(FOUR_PROMPTS) for each in (found, expected))
    assert mine["generated_texts"] == theirs["generated_texts"]
    numbers = {name for name in mine if name.endswith(("loss", "norm", "variance"))}
    assert numbers and [mine[name] for name in numbers] == pytest.approx([theirs[name] for name in numbers], rel=1e-3)
    for weight, other in zip(found.roles.value.parameters(), expected.roles.value.parameters()):
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "row_by_row", "begins"),
    [
        ({}, True, True),
        ({"mini_batches": 2}, True, False),
        ({"value_backbone": "shared"}, True, False),
        ({}, False, False),
    ],
)
def test_only_where_the_first_update_takes_the_same_pass(folder, monkeypatch, settings, row_by_row, begins):
    estimator = Estimator(add_gae, needs_values=True, whitens=True, row_by_row=row_by_row)
    monkeypatch.setattr("ppo_lm.ppo_trainer.inputs.find_estimator", lambda config: estimator)
    made = trainer(folder, **settings)
    assert (made.value_adder.begin_update is not None) == begins
    assert made.floor.passes.scored == (1 if begins else 2)
    assert estimator.scores_in_first_update(made.config) == begins
