"""What decides the next step of a PPO run, taken out of the trainer and put back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from ppo_lm.config.settings import differences, with_current_names
from ppo_lm.errors import CheckpointError, first_line
from ppo_lm.evaluation import Evaluation
from ppo_lm.optimisation import Optimiser
from ppo_lm.run import Checkpoint

if TYPE_CHECKING:
    from ppo_lm.ppo_trainer.ppo_trainer import PPOTrainer

Evaluations = dict[str, list[Evaluation]]
MAY_CHANGE = (
    "output_dir",
    "reward",
    "monitor",
    "device",
    "samples_every",
    "save_every",
    "keep_checkpoints",
    "max_dropped",
    "kl_limit",
)


def take_state(trainer: PPOTrainer, step: int, evaluations: Evaluations, data: str) -> Checkpoint:
    """Weights, optimisers, schedules and random streams after `step` steps, the evaluations made so far, and the
    fingerprint of the prompts."""
    tensors = dict(random_states(trainer))
    for name, model in _models(trainer).items():
        tensors |= {f"{name}.{i}": weight for i, weight in enumerate(model.parameters())}
    for name, optimiser in _optimisers(trainer).items():
        tensors |= {f"{name}.{part}": tensor for part, tensor in optimiser.tensors().items()}
    schedules = {name: optimiser.numbers() for name, optimiser in _optimisers(trainer).items()}
    kept = {name: [dataclasses.asdict(evaluation) for evaluation in made] for name, made in evaluations.items()}
    state = {
        "step": step,
        "kl_coef": trainer.kl_controller.coef,
        "config": dataclasses.asdict(trainer.config),
        "scorers": scorers(trainer),
        "data": data,
        "schedules": schedules,
        "evaluations": kept,
    }
    return Checkpoint(tensors, state)


def put_state(trainer: PPOTrainer, checkpoint: Checkpoint, data: str) -> tuple[int, Evaluations]:
    """Undo `take_state`; returns its step and evaluations. Raises `CheckpointError` for a checkpoint of another run, of
    other prompts, or of another version."""
    try:
        return _put_state(trainer, checkpoint, data)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            "the checkpoint does not fit, so it was written by another version of ppo_lm, torch or peft "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error


def _put_state(trainer: PPOTrainer, checkpoint: Checkpoint, data: str) -> tuple[int, Evaluations]:
    tensors, state = checkpoint
    then = with_current_names(type(trainer.config), state["config"]) | state["scorers"]
    _check_same(dataclasses.asdict(trainer.config) | scorers(trainer), then)
    if state["data"] != data:
        raise CheckpointError(
            "the prompts have changed since the run was paused; resume it with the same prompts in the same "
            "order, or start a new run"
        )
    restore_random_states(trainer, tensors)
    with torch.no_grad():
        for name, model in _models(trainer).items():
            for i, weight in enumerate(model.parameters()):
                weight.copy_(tensors[f"{name}.{i}"])
    for name, optimiser in _optimisers(trainer).items():
        own = {part.removeprefix(f"{name}."): tensor for part, tensor in tensors.items() if part.startswith(f"{name}.")}
        optimiser.restore(own, state["schedules"][name])
    trainer.kl_controller.coef = state["kl_coef"]
    return state["step"], {
        name: [Evaluation(**numbers) for numbers in made] for name, made in state["evaluations"].items()
    }


def scorers(trainer: PPOTrainer) -> dict:
    """What scores: what the configuration names, or else the functions' names. The address of a service may change."""
    config, monitor = trainer.config, trainer.monitor and trainer.monitor.name
    rewards = trainer.reward_computer.names if trainer.has_callables else list(map(_without_address, config.rewards))
    return {
        "the rewards": rewards,
        "the monitor": monitor if trainer.has_callables or config.monitor is None else _without_address(config.monitor),
    }


def _without_address(spec: str) -> str:
    return "a service" if spec.startswith(("http://", "https://", "remote(")) else spec


def random_states(trainer: PPOTrainer) -> dict[str, torch.Tensor]:
    """The state of every random stream that the next step draws from."""
    return {f"random.{name}": stream.get_state() for name, stream in _streams(trainer).items()}


def restore_random_states(trainer: PPOTrainer, states: dict[str, torch.Tensor]) -> None:
    """Set the streams back to what `random_states` returned."""
    for name, stream in _streams(trainer).items():
        try:
            stream.set_state(states[f"random.{name}"])
        except RuntimeError as error:
            raise CheckpointError(
                f"the random stream of a run on another kind of device cannot go on here ({first_line(error)}); "
                "resume it on its own"
            ) from error


def _models(trainer: PPOTrainer) -> dict:
    return {"policy": trainer.roles.policy, "value": trainer.roles.value}


def _optimisers(trainer: PPOTrainer) -> dict[str, Optimiser]:
    return {
        "policy_optimiser": trainer.model_trainer.policy_optimiser,
        "value_optimiser": trainer.model_trainer.value_optimiser,
    }


def _streams(trainer: PPOTrainer) -> dict[str, torch.Generator]:
    steps = trainer.model_trainer
    return {
        "sampling": trainer.generator.random,
        "policy_batches": steps.policy_buffer.random,
        "value_batches": steps.value_buffer.random,
    }


def _check_same(now: dict, then: dict) -> None:
    changed = differences(now, then, MAY_CHANGE)
    if changed:
        raise CheckpointError(
            f"the run to resume had other settings: {'; '.join(changed)}; a resumed run keeps its settings"
        )
