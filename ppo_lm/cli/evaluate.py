"""`ppo-lm evaluate`: policies side by side on the same prompts."""

from __future__ import annotations

import contextlib
import sys

from ppo_lm.cli.options import note
from ppo_lm.cli.output import print_json
from ppo_lm.cli.parser import JSON, OVERWRITE, PRINT_CONFIG, ConfigParser
from ppo_lm.cli.stages import read_run
from ppo_lm.config import EvaluateConfig
from ppo_lm.reading import read_json, user_path


def make_parser(prog: str) -> ConfigParser[EvaluateConfig]:
    """The options of the command."""
    return ConfigParser(
        EvaluateConfig,
        prog,
        "Compare policies on the same prompts.",
        task="evaluate",
        general=(PRINT_CONFIG, OVERWRITE, JSON),
    )


def run(arguments: list[str], prog: str) -> None:
    """Compare the policies that the options name."""
    request = read_run(make_parser(prog), arguments)
    config = request.config
    if config.judge is None:
        note("judge is not set, so TL;DR heuristics judge the completions")
    from ppo_lm.comparison import RESULTS, run_comparison

    with contextlib.redirect_stdout(sys.stderr) if request.json else contextlib.nullcontext():
        run_comparison(config, overwrite=request.overwrite)
    if request.json:
        results = read_json(user_path(config.output_dir, "output_dir") / RESULTS)
        print_json({"output_dir": config.output_dir, **results})
