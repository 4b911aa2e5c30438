"""The models of a run, finished or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ppo_lm.errors import ModelError
from ppo_lm.models.adapter_check import CONFIG_FILE
from ppo_lm.models.score_head import HEAD_FILE
from ppo_lm.reading import user_path
from ppo_lm.run.checkpoint import is_finished, last_intact_checkpoint, read_state
from ppo_lm.run.folder import CONFIG

MODEL_CONFIG = "config.json"  # of a plain transformers model
ALL_WEIGHTS_OR_NONE = "no adapter that could be loaded: it trains all weights, or no policy"


class RunModel(NamedTuple):
    """The folder of an adapter or a plain model, and a sentence that says from which step it is. `step`: None if no
    checkpoint says it."""

    folder: Path
    description: str
    step: int | None


def is_run_folder(folder: Path) -> bool:
    """Whether it is the folder of a run rather than of a model."""
    return (folder / CONFIG).is_file() and not any((folder / name).is_file() for name in (CONFIG_FILE, MODEL_CONFIG))


def find_policy(run_folder: Path) -> RunModel:
    """What a finished run saved, or else the adapter of its last intact checkpoint. Raises `ModelError` if there is
    neither."""
    places = {"adapter": CONFIG_FILE, "merged": MODEL_CONFIG}
    return _find(run_folder, "policy", places, ALL_WEIGHTS_OR_NONE)


def find_value(run_folder: Path) -> RunModel:
    """The value model, an adapter and a head: see `find_policy`."""
    return _find(run_folder, "value model", {"value": HEAD_FILE}, "no value model with an adapter of its own")


def find_reward(run_folder: Path) -> RunModel:
    """The reward model that a finished run saved. Raises `ModelError` if there is none."""
    return _find(run_folder, "reward model", {"reward": HEAD_FILE}, "no reward model, which is saved at the end")


def _find(run_folder: Path, what: str, places: Mapping[str, str], none: str) -> RunModel:
    """The model in one of the subfolders `places`, each with a file that marks it. `none`: what an unfinished run
    without it has."""
    newest = last_intact_checkpoint(run_folder)
    state = {} if newest is None else read_state(newest)
    unfinished = newest is not None and not is_finished(newest)
    within = newest if newest is not None and unfinished else run_folder
    for name, mark in places.items():
        folder = user_path(within / name, f"the {what} of the run in {str(run_folder)!r}", ModelError)
        if (folder / mark).is_file():
            return RunModel(folder, _describe(run_folder, what, state, unfinished), state.get("step"))
    if unfinished:
        raise ModelError(
            f"the run in {str(run_folder)!r} is not finished, and {within.name} has {none}; finish it with --resume"
        )
    nowhere = ", ".join(f"{name}/" for name in places)
    raise ModelError(f"the run in {str(run_folder)!r} has no {what}: no {nowhere} or checkpoint of one")


def _describe(run_folder: Path, what: str, state: Mapping[str, object], unfinished: bool) -> str:
    if unfinished:
        return f"the run in {run_folder} is not finished; this is its {what} after step {state['step']}"
    after = f" after step {state['step']}, its last" if "step" in state else ""
    return f"the {what} of the run in {run_folder}{after}"
