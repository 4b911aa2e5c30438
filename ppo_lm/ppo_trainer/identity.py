"""What the numbers of a PPO run depend on besides its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppo_lm.data import PromptSet
from ppo_lm.fingerprint import source_of
from ppo_lm.rewards import identify, without_addresses
from ppo_lm.run.identity import (
    Identity,
    identify_base,
    identify_optimiser_parts,
    identify_parts,
    identify_prompts,
)

if TYPE_CHECKING:
    from ppo_lm.ppo_trainer.ppo_trainer import PPOTrainer


def identify_run(trainer: PPOTrainer, train: PromptSet, held_out: PromptSet) -> Identity:
    """The prompts, the base, rewards and monitor, and the user's own parts. The address of a service may change, and so
    may the folder of the value model: the value model is in the checkpoint."""
    parts = trainer.reward_computer.identity()
    if trainer.monitor is not None:
        parts["the monitor"] = identify(trainer.monitor)
    own = {"estimator": trainer.estimator.add_advantages, "engine": trainer.engine, **trainer.losses._asdict()}
    parts |= {f"the {name}": source_of(part) for name, part in own.items()}
    parts |= identify_optimiser_parts(trainer.model_trainer.optimiser_parts)
    return {
        **_names(trainer),
        **identify_prompts(train, held_out),
        **identify_base(trainer.base),
        **identify_parts(parts),
    }


def _names(trainer: PPOTrainer) -> Identity:
    config, monitor = trainer.config, trainer.monitor
    rewards, watched = trainer.reward_computer.names, None if monitor is None else monitor.name
    if trainer.is_by_name:
        rewards = without_addresses(config.rewards)
        watched = watched if config.monitor is None else without_addresses([config.monitor])[0]
    return {"the rewards": rewards, "the monitor": watched, "the engine": type(trainer.engine).__name__}
