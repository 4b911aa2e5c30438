"""Whether the responses of policies end in an evaluation as they did when the policies were trained."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ppo_lm.comparison.contestants import Contestant
from ppo_lm.config import EvaluateConfig
from ppo_lm.config.files import is_ppo_run, read_settings
from ppo_lm.errors import ConfigError
from ppo_lm.reading import user_path
from ppo_lm.run import run_of
from ppo_lm.run.folder import CONFIG

SETTINGS = ("max_new_tokens", "min_new_tokens", "stop_strings")


def notes_on_lengths(contestants: Sequence[Contestant], config: EvaluateConfig) -> list[str]:
    """A sentence for every policy of a PPO run, and each of the settings that end a response, if it had another."""
    notes = []
    for contestant in contestants:
        trained = {} if contestant.column is not None else _trained_with(user_path(contestant.source, "models"))
        for name in SETTINGS:
            now = getattr(config, name)
            if name in trained and trained[name] != now:
                then = _written(trained[name])
                notes.append(
                    f"{contestant.name}: trained with {name} {then}, but evaluated with {_written(now)}; "
                    f"--{name} {then} evaluates what it was trained to write"
                )
    return notes


def _trained_with(model: Path) -> Mapping[str, Any]:
    """The settings of the PPO run that wrote the model; empty if there is none, or they are not known."""
    run_folder = run_of(model)
    if run_folder is not None:
        with suppress(ConfigError):  # a run of whose settings nothing can be read
            settings = read_settings(run_folder / CONFIG, "models")
            return settings if is_ppo_run(settings) else {}
    return {}


def _written(value: Any) -> str:
    """A value as written on the command line."""
    return shlex.quote(json.dumps(value, ensure_ascii=False))
