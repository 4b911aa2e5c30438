"""`ppo-lm export`: the results of a run, for other programs and for the hub."""

from __future__ import annotations

from ppo_lm.cli.options import note, read_config
from ppo_lm.cli.stages import hide_progress_bars
from ppo_lm.config import ExportConfig
from ppo_lm.terminal import printable


def run(arguments: list[str], prog: str) -> None:
    """Export the run whose folder comes first, or is named by `--run`."""
    positional = arguments and not arguments[0].startswith("-")
    options = ["--run", *arguments] if positional else arguments
    config = read_config(
        ExportConfig, options, prog, f"Export what a run has trained: {prog} RUN [--OPTION VALUE ...]."
    )
    hide_progress_bars()
    from ppo_lm.exporting import run_export

    exported = run_export(config, note)
    print(printable("\n".join(exported.lines())))
