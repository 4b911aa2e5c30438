"""`ppo-lm evaluate`: policies side by side on the same prompts."""

from __future__ import annotations

from ppo_lm.cli.options import note
from ppo_lm.cli.stages import read_run
from ppo_lm.config import EvaluateConfig


def run(arguments: list[str], prog: str) -> None:
    """Compare the policies that the options name."""
    request = read_run(
        EvaluateConfig, arguments, prog, "Compare policies on the same prompts.", "evaluate", resumable=False
    )
    if request.config.judge is None:
        note("judge is not set, so TL;DR heuristics judge the completions")
    from ppo_lm.comparison import run_comparison

    run_comparison(request.config, overwrite=request.overwrite)
