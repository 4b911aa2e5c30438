"""From what a configuration names to something that scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ppo_lm.errors import RewardError
from ppo_lm.plugins import load_object
from ppo_lm.rewards.built_in import BUILT_IN, call_by_name, load_built_in
from ppo_lm.rewards.classifier import ClassifierReward, is_classifier_folder
from ppo_lm.rewards.function_reward import FunctionReward
from ppo_lm.rewards.remote import RemoteReward

KINDS = (
    "name a function as module:function or path/file.py:function, a built-in ("
    + ", ".join(BUILT_IN)
    + "), the folder of a reward model, the hub id of a classifier, or the address of a scorer (http://... "
    "or remote(url=..., timeout=30))"
)


class Scorer(Protocol):
    """What every reward is but a reward model on the shared base: `FunctionReward`, `RemoteReward`,
    `ClassifierReward`."""

    name: str

    def __call__(
        self, prompts: Sequence, completions: Sequence[str], columns: Mapping[str, list] | None = None
    ) -> list[float | None]: ...

    def missing_columns(self, columns: Iterable[str]) -> list[str]: ...


def load_scorer(spec: str, role: str = "reward") -> Scorer:
    """Make what `spec` names. Raises `RewardError` that says which part cannot be found. `role` is the setting that
    named it, for messages.

    A reward model on the shared base is not made here: its folder is found by `base_setup.find_reward_folder`.
    """
    if spec.startswith(("http://", "https://")):
        return RemoteReward(spec)
    remote = call_by_name(spec, {"remote": RemoteReward}, role)
    if remote is not None:
        return remote
    built_in = load_built_in(spec, role)
    if built_in is not None:
        return FunctionReward(built_in, spec.split("(")[0].strip())
    if ":" in spec:
        return FunctionReward(load_function(spec, role))
    if spec == "embedded" or (role == "monitor" and Path(spec).is_dir()):
        raise RewardError(
            f"{role} {spec!r}: a reward model cannot be a {role}; name a function, a built-in or the address of a "
            "scorer"
        )
    folder = Path(spec).expanduser()
    if is_classifier_folder(folder):
        return ClassifierReward(str(folder), folder.name)
    looks_like_a_hub_id = spec.count("/") == 1 and not spec.startswith((".", "~", "/")) and not folder.parent.is_dir()
    if not folder.exists() and looks_like_a_hub_id:
        return ClassifierReward(spec, spec.split("/")[1])
    raise RewardError(f"{role} {spec!r}: there is no such function, folder or built-in; {KINDS}")


def load_function(spec: str, role: str = "reward") -> Callable:
    """Load `package.module:function` or `path/file.py:function`. Raises `RewardError` that says which part cannot be
    found."""
    function = load_object(spec, role, RewardError)
    if not callable(function):
        raise RewardError(f"{role} {spec!r}: {spec.rpartition(':')[2]!r} is not a function")
    return function
