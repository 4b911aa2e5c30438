"""The policy of a run, finished or not."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ppo_lm.errors import ModelError
from ppo_lm.models.adapter_check import CONFIG_FILE
from ppo_lm.reading import user_path
from ppo_lm.run.checkpoint import is_finished, last_intact_checkpoint, read_state
from ppo_lm.run.folder import CONFIG

MODEL_CONFIG = "config.json"  # of a plain transformers model


class RunPolicy(NamedTuple):
    """The folder of an adapter or a plain model, and a sentence that says from which step it is."""

    folder: Path
    description: str


def is_run_folder(folder: Path) -> bool:
    """Whether it is the folder of a run rather than of a model."""
    return (folder / CONFIG).is_file() and not any((folder / name).is_file() for name in (CONFIG_FILE, MODEL_CONFIG))


def find_policy(run_folder: Path) -> RunPolicy:
    """What a finished run saved, or else the adapter of its last intact checkpoint. Raises `ModelError` if there is
    neither."""
    newest = last_intact_checkpoint(run_folder)
    state = {} if newest is None else read_state(newest)
    if newest is not None and not is_finished(newest):
        if not (newest / "adapter" / CONFIG_FILE).is_file():
            raise ModelError(
                f"the run in {str(run_folder)!r} is not finished, and {newest.name} has no adapter that could be "
                "loaded: it trains all weights, or no policy; finish it with --resume"
            )
        return RunPolicy(
            newest / "adapter",
            f"the run in {run_folder} is not finished; this is its policy after step {state['step']}",
        )
    for name, config in (("adapter", CONFIG_FILE), ("merged", MODEL_CONFIG)):
        folder = user_path(run_folder / name, f"the policy of the run in {str(run_folder)!r}", ModelError)
        if (folder / config).is_file():
            after = f" after step {state['step']}, its last" if "step" in state else ""
            return RunPolicy(folder, f"the policy of the run in {run_folder}{after}")
    raise ModelError(f"the run in {str(run_folder)!r} has no policy: no adapter/, merged/ or checkpoint of one")
