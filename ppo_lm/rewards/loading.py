"""Make a `Reward` of what a configuration or Python code names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ppo_lm.rewards.built_in  # noqa: F401  (registers)
from ppo_lm.base_setup import find_reward_folder
from ppo_lm.errors import RewardError
from ppo_lm.plugins import load_object
from ppo_lm.reading import as_path
from ppo_lm.rewards.classifier import ClassifierReward, is_classifier_folder
from ppo_lm.rewards.function_reward import FunctionReward
from ppo_lm.rewards.model_reward import ModelReward
from ppo_lm.rewards.registry import REWARDS, call_by_name
from ppo_lm.rewards.remote import RemoteReward
from ppo_lm.rewards.reward import Reward
from ppo_lm.user_code import user_code

DEFAULT_REWARD = "tldr_heuristics"
Maker = Callable[[str, str], Reward | None]


def load_reward(spec: str, role: str = "reward") -> Reward:
    """Make the reward that `spec` names; nothing large is loaded yet. `role` is the setting that named it, for
    messages. Raises `RewardError` or `ModelError`, saying which part of `spec` cannot be found or used."""
    for make in MAKERS:
        reward = make(spec, role)
        if reward is not None:
            return reward
    place = as_path(spec)
    if place is not None and place.is_file():
        what = "is a file; name the function in it, as path/file.py:name"
    elif place is not None and place.is_dir():
        what = "is a folder without a reward model; name the one that `ppo-lm reward` wrote"
    else:
        what = "there is no such function, folder or built-in"
    raise RewardError(
        f"{role} {spec!r}: {what}; give a function or Reward as module:name or path/file.py:name, a built-in "
        f"({', '.join(REWARDS.names)}), the folder of a reward model, the hub id of a classifier, or the address of a "
        "scorer (http://... or remote(url=..., timeout=30))"
    )


def as_reward(given: Any, name: str | None = None) -> Reward:
    """Turn `given` into a `Reward`: a `Reward` is kept as it is, a subclass is instantiated, a function becomes a
    `FunctionReward` called `name`. Raises `RewardError` for anything else."""
    if isinstance(given, Reward):
        return given
    if isinstance(given, type) and issubclass(given, Reward):
        with user_code(f"reward {given.__name__}", "when made without arguments", RewardError):
            return given()
    return FunctionReward(given, name)


def as_list_of_rewards(given: Any) -> list[Any]:
    """One reward or several, as a list, not yet passed through `as_reward`."""
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def _saved_model(spec: str, role: str) -> Reward | None:
    folder = find_reward_folder(spec)
    return None if folder is None else ModelReward.saved_in(folder)


def _address(spec: str, role: str) -> Reward | None:
    return RemoteReward(spec) if spec.startswith(("http://", "https://")) else None


def _registered(spec: str, role: str) -> Reward | None:
    made = call_by_name(spec, role)
    return None if made is None else as_reward(made[1], name=made[0])


def _own(spec: str, role: str) -> Reward | None:
    if ":" not in spec:
        return None
    found = load_object(spec, role, RewardError)
    if not callable(found) and not isinstance(found, Reward):
        raise RewardError(f"{role} {spec!r}: {spec.rpartition(':')[2]!r} is neither a function nor a Reward")
    return as_reward(found)


def _classifier(spec: str, role: str) -> Reward | None:
    folder = as_path(spec)
    if folder is None:
        return None
    if is_classifier_folder(folder):
        return ClassifierReward(str(folder), folder.name)
    looks_like_a_hub_id = spec.count("/") == 1 and not spec.startswith((".", "~", "/")) and not folder.parent.is_dir()
    if not folder.exists() and looks_like_a_hub_id:
        return ClassifierReward(spec, spec.split("/")[1])
    return None


MAKERS: list[Maker] = [_saved_model, _address, _registered, _own, _classifier]
"""Tried in this order. Each returns None for a spec that is not of its kind."""


def without_addresses(specs: Sequence[str]) -> list[str]:
    """Rewards as a configuration names them, without what a resumed run may change: the address of a service."""
    return ["a service" if spec.startswith(("http://", "https://", "remote(")) else spec for spec in specs]
