"""The command that repeats a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

NOT_REPEATED = ("output_dir",)  # it holds the run
ALWAYS = ("model_name",)  # a command that names no model runs the embedded task


def repeat_command(stage: str, settings: Sequence[Mapping[str, Any]]) -> str:
    """A shell command with every setting that is not the default, an option per line. `settings`: see
    `read_run_folder`."""
    options = []
    for setting in settings:
        name, value = setting["name"], setting["value"]
        if name in NOT_REPEATED or (setting["default"] and name not in ALWAYS):
            continue
        repeated = isinstance(value, list) and value and all(isinstance(each, str) for each in value)
        options += [_option(name, each) for each in (value if repeated else [value])]
    return " \\\n  ".join([f"ppo-lm {stage}", *options])


def _option(name: str, value: object) -> str:
    text = _written(value)
    parts = [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
    return shlex.join(parts)


def _written(value: object) -> str:
    """A value as the command line reads it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
