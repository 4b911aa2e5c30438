"""What a configuration names outside itself, checked and loaded before any model is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from ppo_lm.base_setup import find_reward_folder, find_value_folder
from ppo_lm.config import PPOConfig
from ppo_lm.data import DataReport, PromptSet, load_prompts
from ppo_lm.data.encoding import encode_prompt, fit_prompt
from ppo_lm.errors import ConfigError, DataError, Problems, RewardError
from ppo_lm.models import BaseModel, RewardModel
from ppo_lm.rewards import ClassifierReward, FunctionReward, Scorer, load_scorer, tldr_heuristics
from ppo_lm.rollout import MakeEngine, RolloutEngine, find_engine
from ppo_lm.tracking import check_output_dir


class Inputs(NamedTuple):
    """`rewards` in the configuration's order, a reward model on the shared base as its folder; `make_engine` takes the
    policy and the memory budget; `prompts` is None where none are named."""

    rewards: list[Scorer | Path]
    value: Path | None
    monitor: Scorer | None
    prompts: PromptSet | None
    report: DataReport | None
    make_engine: MakeEngine


def load_inputs(
    config: PPOConfig,
    reward: Callable | Sequence[Callable] | None = None,
    monitor: Callable | None = None,
    engine: RolloutEngine | None = None,
) -> Inputs:
    """Load rewards, monitor, prompts and what makes the engine; callables and an engine given stand in for the
    configuration's names. All problems are raised as one error."""
    problems = Problems("PPOConfig")
    if reward is None:
        given = [tldr_heuristics] if not config.rewards else config.rewards
    else:
        given = list(reward) if isinstance(reward, Sequence) and not isinstance(reward, str) else [reward]
    rewards = [problems.attempt(load_reward, each) for each in given]
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
    if monitor is not None:
        monitor = problems.attempt(FunctionReward, monitor)
    elif config.monitor is not None:
        monitor = problems.attempt(load_scorer, config.monitor, "monitor")
    prompts, report = (
        (None, None)
        if config.prompts is None
        else problems.attempt(load_prompts, config.prompts, config) or (None, None)
    )
    if config.output_dir is not None:
        problems.attempt(check_output_dir, config.output_dir)
    if prompts is not None:
        for function in (*rewards, monitor):
            problems.attempt(check_columns, function, prompts, config.prompts)
    make_engine = problems.attempt(find_engine, config.engine if engine is None else engine)
    problems.raise_all()
    return Inputs(rewards, value, monitor, prompts, report, make_engine)


def load_reward(reward: str | Callable) -> Scorer | Path:
    """A reward model's folder, if that is what a name names; otherwise what scores."""
    if not isinstance(reward, str):
        return reward if hasattr(reward, "missing_columns") else FunctionReward(reward)
    return find_reward_folder(reward) or load_scorer(reward)


def make_ready(
    rewards: Sequence[Scorer | Path | None], models: Sequence[RewardModel], device: torch.device
) -> list[Scorer | RewardModel | None]:
    """`rewards` with the model, in order, in each folder's place, and classifiers on the device."""
    models = iter(models)
    ready = [next(models) if isinstance(reward, Path) else reward for reward in rewards]
    for reward in ready:
        if isinstance(reward, ClassifierReward):
            reward.load(device)
    return ready


def check_columns(function: Scorer | Path | None, prompts: PromptSet, source: str) -> None:
    """Raise `RewardError` if the function needs a column that the prompts do not have."""
    missing = missing_columns(function, prompts.columns)
    if missing:
        have = ", ".join(prompts.columns) or "no other column"
        raise RewardError(
            f"function {function.name} needs {', '.join(map(repr, missing))}, but the prompts {source!r} have "
            f"{have}; add the column, or name another function"
        )


def missing_columns(scorer: Scorer | Path | None, columns: Iterable[str]) -> list[str]:
    """The columns that a scorer needs beside these; a reward model of ours reads none, nor does what could not be
    loaded."""
    return [] if scorer is None or isinstance(scorer, Path) else scorer.missing_columns(columns)


def check_batch(
    prompts: list, columns: Mapping[str, list] | None, mini_batches: int, responses_per_prompt: int
) -> None:
    """Raise `DataError` unless `prompts` is a list of prompts, at least one a mini-batch, each `responses_per_prompt`
    times in a row, and every column is as long."""
    check_prompts(prompts)
    if len(prompts) < mini_batches:
        raise DataError(
            f"there are {len(prompts)} prompts but mini_batches is {mini_batches}; give at least one prompt a "
            "mini-batch, or lower mini_batches"
        )
    groups = [prompts[start : start + responses_per_prompt] for start in range(0, len(prompts), responses_per_prompt)]
    if any(group != [group[0]] * responses_per_prompt for group in groups):
        raise DataError(
            f"responses_per_prompt is {responses_per_prompt}; give every prompt {responses_per_prompt} times in a row"
        )
    for name, values in (columns or {}).items():
        if len(values) != len(prompts):
            raise DataError(f"column {name!r} has {len(values)} values for {len(prompts)} prompts; give one a prompt")


def check_prompts(prompts: list) -> None:
    """Raise `DataError` unless `prompts` is a list of at least one text or conversation."""
    if isinstance(prompts, str) or not len(prompts) or not all(isinstance(prompt, (str, list)) for prompt in prompts):
        raise DataError(f"prompts must be a list of at least one text or conversation; got {prompts!r:.60}")


def check_lengths(encoded: list[list[int]], max_new_tokens: int, context_length: int) -> None:
    """Raise `DataError`, naming every bad prompt by its number, unless each has a token and leaves room for the
    response."""
    room = context_length - max_new_tokens
    problems = [f"prompt {i} is empty" for i, ids in enumerate(encoded) if not ids]
    problems += [f"prompt {i} has {len(ids)} tokens" for i, ids in enumerate(encoded) if len(ids) > room]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise DataError(
            f"{', '.join(problems[:5])}{more} (counted from 0); a prompt needs at least 1 token and at most "
            f"{room}: the model's context of "
            f"{context_length} less max_new_tokens {max_new_tokens}; shorten it, set max_prompt_tokens to cut "
            "long prompts, or lower max_new_tokens"
        )


def fit_prompts(
    prompts: PromptSet, report: DataReport, config: PPOConfig, base: BaseModel
) -> tuple[PromptSet, DataReport]:
    """The prompts cut to `max_prompt_tokens`, without those that cannot be, and the report with their lengths. Raises
    `DataError` if none is left or one leaves no room for a response."""
    fitted = [fit_prompt(base.tokenizer, prompt, config.max_prompt_tokens) for prompt in prompts.prompts]
    report = replace(report, dropped=list(report.dropped))
    for number, prompt in enumerate(fitted, start=1):
        if prompt is None:
            report.drop(
                f"prompt {number}", f"has no sentence that ends within max_prompt_tokens {config.max_prompt_tokens}"
            )
    rows = [row for row, prompt in enumerate(fitted) if prompt is not None]
    if not rows:
        raise DataError(
            f"prompts: none has a sentence that ends within max_prompt_tokens {config.max_prompt_tokens}; raise it"
        )
    report.cut = sum(fitted[row] != prompts.prompts[row] for row in rows)
    prompts = PromptSet(fitted, prompts.columns).select(rows)
    encoded = [encode_prompt(base.tokenizer, prompt) for prompt in prompts.prompts]
    check_lengths(encoded, config.max_new_tokens, base.context_length)
    report.lengths = [len(ids) for ids in encoded]
    return prompts, report
