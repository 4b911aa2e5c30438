"""What a configuration names outside itself, checked and loaded before any model is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from ppo_lm.base_setup import find_reward_folder
from ppo_lm.config import PPOConfig
from ppo_lm.data import PromptSet, load_prompts
from ppo_lm.errors import ConfigError, DataError, RewardError, UserError
from ppo_lm.rewards import FunctionReward, load_function, tldr_heuristics


class Inputs(NamedTuple):
    """`reward` is None where `reward_folder` names a reward model instead; `prompts` is None where the configuration names none."""

    reward_folder: Path | None
    reward: FunctionReward | None
    monitor: FunctionReward | None
    prompts: PromptSet | None


def load_inputs(config: PPOConfig, reward: Callable | None = None, monitor: Callable | None = None) -> Inputs:
    """Load reward, monitor and prompts; a callable given stands in for the configuration's name. All problems are raised as one error."""
    problems: list[UserError] = []

    def attempt(load, *arguments):
        try:
            return load(*arguments)
        except UserError as error:
            problems.append(error)

    folder = None if reward is not None else attempt(find_reward_folder, config.reward)
    if reward is None and config.reward is None:
        reward = tldr_heuristics
    elif reward is None and ":" in config.reward:
        reward = attempt(load_function, config.reward)
    if monitor is None and config.monitor is not None:
        monitor = attempt(load_function, config.monitor, "monitor")
    prompts = None if config.prompts is None else attempt(load_prompts, config.prompts, config.prompt_column)
    if config.output_dir is not None:
        attempt(check_output_dir, Path(config.output_dir).expanduser())
    reward, monitor = (function and attempt(FunctionReward, function) for function in (reward, monitor))
    if prompts is not None:
        for function in filter(None, (reward, monitor)):
            attempt(check_columns, function, prompts, config.prompts)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ConfigError([str(problem) for problem in problems]) from problems[0]
    return Inputs(folder, reward, monitor, prompts)


def check_output_dir(folder: Path) -> None:
    """Raise `ConfigError` unless `folder` exists or can be made, and can be written to."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError([f"output_dir is {str(folder)!r}, but {there} is a file; name a folder"])
    if not os.access(there, os.W_OK):
        raise ConfigError([f"output_dir is {str(folder)!r}, but {there} cannot be written to; name another folder"])


def check_columns(function: FunctionReward, prompts: PromptSet, source: str) -> None:
    """Raise `RewardError` if the function needs a column that the prompts do not have."""
    missing = function.missing_columns(prompts.columns)
    if missing:
        have = ", ".join(prompts.columns) or "no other column"
        raise RewardError(f"function {function.name} needs {', '.join(map(repr, missing))}, but the prompts {source!r} have {have}; add the column, or name another function")


def check_batch(prompts: list[str], columns: Mapping[str, list] | None, mini_batches: int) -> None:
    """Raise `DataError` unless `prompts` is a list of texts, at least one a mini-batch, and every column is as long."""
    check_prompts(prompts)
    if len(prompts) < mini_batches:
        raise DataError(f"there are {len(prompts)} prompts but mini_batches is {mini_batches}; give at least one prompt a mini-batch, or lower mini_batches")
    for name, values in (columns or {}).items():
        if len(values) != len(prompts):
            raise DataError(f"column {name!r} has {len(values)} values for {len(prompts)} prompts; give one a prompt")


def check_prompts(prompts: list[str]) -> None:
    """Raise `DataError` unless `prompts` is a list of at least one text."""
    if isinstance(prompts, str) or not len(prompts) or not all(isinstance(prompt, str) for prompt in prompts):
        raise DataError(f"prompts must be a list of at least one text; got {prompts!r:.60}")
