"""All weights trained while they are sharded (lora_r 0): what each process holds, and how such a run goes on."""

import math

import pytest
import torch
from safetensors.torch import load_file

from ppo_lm.base_setup import LoadedModel, load_base, load_reward_model, set_up_roles
from ppo_lm.base_setup.model_setup import find_reward_folder
from ppo_lm.config import PPOConfig
from ppo_lm.distributed import processes
from ppo_lm.distributed.slices import own_slice, whole
from ppo_lm.errors import NumericalFault, RunPaused
from ppo_lm.optimisation import Optimiser
from ppo_lm.ppo_trainer import ModelTrainer
from tests.conftest import make_base, make_pairs
from tests.distributed.conftest import in_processes
from tests.distributed.test_runs import nearly_alike, terminate
from tests.distributed.test_same_numbers import SETTINGS, relative, steps_of
from tests.distributed.test_sharding import like_smollm2, numbers_in_memory, succeeded
from tests.ppo_trainer.conftest import PROMPTS, Signals, make, metrics

ALL_WEIGHTS = dict(lora_r=0, engine="transformers", learning_rate=1e-4, value_learning_rate=1e-4)
MERGED = "merged/model.safetensors"


def size_of(tensors):
    return sum(own_slice(tensor).numel() for tensor in tensors)


def embedded():
    return load_base("embedded").network


def held(shard, network):
    """Of a policy, a value model and a reference after an update: how many of their weights, gradients and moments this
    process holds, and of all numbers in its memory."""
    tokenizer, gradients, clip = make_base().tokenizer, [], Optimiser.clip

    def clipped(optimiser):
        gradients.append(size_of(own.grad for own in optimiser.parameters if own.grad is not None))
        return clip(optimiser)

    Optimiser.clip = clipped
    loaded = LoadedModel(network(), tokenizer)
    base = load_base("random", "float32", "cpu", loaded=loaded, shard=shard)
    del loaded
    roles = set_up_roles(base, lora_r=0, lora_alpha=4, lora_dropout=0.0, lora_targets="all-linear")
    config = PPOConfig(batch_size=2, ppo_epochs=1, mini_batches=1, lr_schedule="constant")
    trainer = ModelTrainer(roles.policy, roles.value, config)
    trainer.train_models(make_pairs(rows=2, vocabulary=1000, dtype=torch.float32))
    bases = (base, roles.policy.base, roles.value.base)
    weights = [size_of({id(weight): weight for weight in one.network.parameters()}.values()) for one in bases]
    moments = [own for one in trainer.optimisers.values() for kept in one.inner.state.values() for own in kept.values()]
    return sum(weights), sum(gradients), size_of(moments), numbers_in_memory()


@pytest.mark.parametrize("network", [embedded, pytest.param(like_smollm2, marks=pytest.mark.slow)])
def test_a_process_holds_its_part_of_weights_gradients_and_moments(network):
    (alone,) = succeeded(in_processes(1, held, False, network))
    for found in succeeded(in_processes(2, held, True, network)):
        assert [own / all_of_it for own, all_of_it in zip(found, alone)] == pytest.approx([0.5] * 4, abs=0.05)


def value_model_of_a_reward(shard):
    """The weights that a value model starts with, from the adapter of a reward model."""
    base = load_base("embedded", "float32", "cpu", shard=shard)
    adapters = dict(lora_r=0, lora_alpha=4, lora_dropout=0.0, lora_targets="all-linear")
    rewards = [find_reward_folder("embedded")]
    roles = set_up_roles(base, **adapters, load_rewards=lambda base: [load_reward_model(base, f) for f in rewards])
    return torch.cat([whole(weight.detach()).flatten() for weight in roles.value.parameters()])


@pytest.mark.slow
def test_a_value_model_starts_from_a_reward_models_adapter():
    (alone,) = succeeded(in_processes(1, value_model_of_a_reward, False))
    for found in succeeded(in_processes(2, value_model_of_a_reward, True)):
        assert torch.equal(found, alone)


def train(folder, out, resume=None, at=None, **settings):
    """`at`: (process, step) that is sent a signal."""
    trainer = make(folder, out, Signals(), **{**ALL_WEIGHTS, "steps": 4, **settings})
    done, ppo_step = [0], trainer.ppo_step

    def signalled(batch):
        done[0] += 1
        if at == (processes().place.rank, done[0]):
            terminate()
        return ppo_step(batch)

    trainer.ppo_step = signalled
    trainer.train(PROMPTS, resume=resume, quiet=True)


def pause_and_resume(folder, out, first, then):
    """`first` and `then`: how many processes, and their settings."""
    size, settings = first
    paused = in_processes(size, train, folder, out, at=(size - 1, 2), **settings)
    assert {type(one) for one in paused} == {RunPaused}, paused
    size, settings = then
    succeeded(in_processes(size, train, folder, out, resume=out, **settings))


SHARDED, ALONE = (2, {"shard_base": True}), (1, {})
IN_BF16 = (2, {"shard_base": True, "dtype": "bfloat16"})


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    succeeded(in_processes(2, train, folder, out, shard_base=True))
    return out


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (SHARDED, SHARDED),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in [(SHARDED, ALONE), (ALONE, SHARDED)]),
    ],
    ids=["2 to 2", "2 to 1", "1 to 2"],
)
def test_a_paused_run_goes_on(folder, undisturbed, tmp_path, first, then):
    out = tmp_path / "run"
    pause_and_resume(folder, out, first, then)
    if first == then:
        assert (out / MERGED).read_bytes() == (undisturbed / MERGED).read_bytes()
        assert metrics(out) == metrics(undisturbed)
    else:
        nearly_alike(out, undisturbed, abs=1e-4)
        found, expected = load_file(out / MERGED), load_file(undisturbed / MERGED)
        assert found.keys() == expected.keys()
        assert max(relative(found[name], expected[name]) for name in found) < 1e-5


@pytest.mark.slow
def test_a_paused_run_in_bf16_goes_on_bit_for_bit(folder, tmp_path):
    size, settings = IN_BF16
    succeeded(in_processes(size, train, folder, tmp_path / "whole", **settings))
    pause_and_resume(folder, tmp_path / "parts", IN_BF16, IN_BF16)
    assert (tmp_path / "parts" / MERGED).read_bytes() == (tmp_path / "whole" / MERGED).read_bytes()


def broken_in_one_process(folder, dtype):
    """The gradient of one entry that one process holds is NaN in the last of a step's updates. Whether all weights, as
    the process holds them, are afterwards what they were before."""
    trainer = make(folder, "", Signals(), output_dir=None, shard_base=True, dtype=dtype, **ALL_WEIGHTS)
    trainer.ppo_step(PROMPTS[:4])
    weights = [weight for model in trainer.roles.trained().values() for weight in model.parameters()]
    before = [own_slice(weight.detach()).clone() for weight in weights]
    optimiser, clip, updates = trainer.model_trainer.policy_optimiser, Optimiser.clip, [0]

    def broken(clipped):
        updates[0] += clipped is optimiser
        if clipped is optimiser and updates[0] == trainer.model_trainer.updates and processes().place.rank == 1:
            clipped.parameters[0].grad.view(-1)[0] = math.nan
        return clip(clipped)

    Optimiser.clip = broken
    with pytest.raises(NumericalFault, match="the gradient is NaN or infinite"):
        trainer.ppo_step(PROMPTS[4:8])
    return all(torch.equal(own_slice(weight.detach()), then) for weight, then in zip(weights, before, strict=True))


@pytest.mark.slow
def test_in_bf16_the_copies_are_sharded_and_the_first_gradient_differs_by_rounding(folder):
    settings = dict(SETTINGS, **ALL_WEIGHTS, dtype="bfloat16", rollout_slots=3)
    (alone,) = succeeded(in_processes(1, steps_of, folder, settings))
    for found in succeeded(in_processes(2, steps_of, folder, dict(settings, shard_base=True))):
        assert found[0][0][0] == alone[0][0][0]  # the texts of the first step
        assert relative(found[1][0], alone[1][0]) < 2e-2


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_gradient_that_is_nan_in_one_process_undoes_the_step_in_all(folder, dtype):
    assert succeeded(in_processes(2, broken_in_one_process, folder, dtype)) == [True, True]
