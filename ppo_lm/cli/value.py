"""`ppo-lm value`: a value model, from demonstrations and a reward."""

from __future__ import annotations

from ppo_lm.cli.stages import read_run
from ppo_lm.config import ValueConfig


def run(arguments: list[str], prog: str) -> None:
    """Train the value model that the options describe, or resume a run."""
    request = read_run(ValueConfig, arguments, prog, "Train a value model on demonstrations and a reward.", "value")
    from ppo_lm.value_modeling import run_value

    run_value(request.config, **request.options())
