"""What a configuration refers to by name, checked and loaded before any model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ppo_lm.advantage import Estimator, find_estimator
from ppo_lm.base_setup import check_can_quantise, check_can_shard, find_value_folder
from ppo_lm.config import PPOConfig
from ppo_lm.data import DataReport, PromptSet, load_prompts
from ppo_lm.errors import ConfigError, DataError, ModelError, Problems
from ppo_lm.optimisation import OptimiserParts, find_optimiser_parts
from ppo_lm.reading import user_path
from ppo_lm.rewards import DEFAULT_REWARD, Reward, as_list_of_rewards, as_reward, check_prompt_columns, load_reward
from ppo_lm.rollout import MakeEngine, RolloutEngine, Samplers, find_engine
from ppo_lm.run import check_writable
from ppo_lm.tracking import find_recorders
from ppo_lm.training import Losses, find_losses


class Inputs(NamedTuple):
    """`rewards` in the configuration's order; `make_engine` takes the policy and the memory budget; `prompts` is None
    if the configuration names none."""

    estimator: Estimator
    losses: Losses
    optimiser_parts: OptimiserParts
    rewards: list[Reward]
    value: Path | None
    monitor: Reward | None
    prompts: PromptSet | None
    report: DataReport | None
    make_engine: MakeEngine


def load_inputs(
    config: PPOConfig,
    reward: Reward | Callable | Sequence[Reward | Callable] | None = None,
    monitor: Reward | Callable | None = None,
    engine: RolloutEngine | None = None,
) -> Inputs:
    """Find the estimator, the losses, the optimiser and the engine's factory, and load rewards, monitor and prompts;
    what is given in Python overrides the configuration. All problems are raised as one error."""
    problems = Problems("PPOConfig")
    estimator, losses = problems.attempt(find_estimator, config), problems.attempt(find_losses, config)
    optimiser_parts = problems.attempt(find_optimiser_parts, config, config.shards_trained_weights)
    if reward is None:
        rewards = [problems.attempt(load_reward, spec) for spec in config.rewards or [DEFAULT_REWARD]]
    else:
        rewards = [problems.attempt(as_reward, each) for each in as_list_of_rewards(reward)]
    if config.reward_weights is not None and len(config.reward_weights) != len(rewards):
        problems.found.append(
            ConfigError(
                [
                    f"reward_weights has {len(config.reward_weights)} numbers for {len(rewards)} rewards; give one for "
                    "each"
                ]
            )
        )
    value = None if config.value_model is None else problems.attempt(find_value_folder, config.value_model)
    watched: Reward | None = None
    if monitor is not None:
        watched = problems.attempt(as_reward, monitor)
    elif config.monitor is not None:
        watched = problems.attempt(load_reward, config.monitor, "monitor")
    loaded = None if config.prompts is None else problems.attempt(load_prompts, config.prompts, config)
    prompts, report = loaded or (None, None)
    if config.output_dir is not None:
        problems.attempt(check_writable, config.output_dir)
    if prompts is not None:
        for role, each in [*(("reward", each) for each in rewards), ("monitor", watched)]:
            if each is not None:
                problems.attempt(check_prompt_columns, each, prompts, role, config.prompts)
    samplers = Samplers(config.engine_urls or [], config.engine_folder, config.engine_timeout, config.max_staleness)
    make_engine = problems.attempt(find_engine, config.engine if engine is None else engine, samplers)
    problems.attempt(check_can_shard, config)
    problems.attempt(check_can_quantise, config.quantise_base, config.model_name)
    problems.attempt(find_recorders, config.recorders)
    problems.attempt(user_path, config.model_name, "model_name", ModelError)
    problems.raise_all()
    return Inputs(estimator, losses, optimiser_parts, rewards, value, watched, prompts, report, make_engine)


def check_batch(batch: PromptSet, mini_batches: int, responses_per_prompt: int) -> None:
    """Raise `DataError` unless there is at least one prompt per mini-batch, and each prompt is repeated
    `responses_per_prompt` times in a row."""
    prompts, copies = batch.prompts, responses_per_prompt
    if len(prompts) < mini_batches:
        raise DataError(
            f"there are {len(prompts)} prompts but mini_batches is {mini_batches}; give at least one prompt per "
            "mini-batch, or lower mini_batches"
        )
    groups = [prompts[start : start + copies] for start in range(0, len(prompts), copies)]
    if any(group != [group[0]] * copies for group in groups):
        raise DataError(f"responses_per_prompt is {copies}; repeat every prompt {copies} times in a row")


def notes_on_repetition(prompts: int, config: PPOConfig) -> list[str]:
    """A sentence if there are fewer `prompts` to train on than a step takes; else nothing."""
    wanted = config.batch_size // config.responses_per_prompt
    if prompts >= wanted:
        return []
    return [
        f"a step takes {wanted} prompts, but there {'is' if prompts == 1 else 'are'} only {prompts} to train on, so "
        "prompts are repeated within a step; give more, or lower batch_size"
    ]
