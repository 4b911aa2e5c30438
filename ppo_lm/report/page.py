"""The report as one HTML file: data, styles and programs are inside it, and it asks for nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ppo_lm
from ppo_lm.report.run_folder import read_run_folder
from ppo_lm.saving import to_json, write_text

ASSETS = Path(__file__).parent / "assets"
STYLES = ("uPlot.min.css", "report.css")
PROGRAMS = ("uPlot.iife.min.js", "tools.js", "curves.js", "tokens.js", "answers.js", "report.js")


def write_report(folders: Sequence[Path], file: Path) -> list[str]:
    """Write what `read_run_folder` finds in each folder as a page. Returns what was left out, a sentence each. Raises
    `UserError`."""
    runs = [read_run_folder(folder) for folder in folders]
    for run, name in zip(runs, _different_names(folders)):
        run["name"] = name
    write_text(file, make_page(runs))
    return [
        f"{run['folder']} kept the tokens of more steps than a report has room for; {run['tokens']['left_out']} of "
        "them are left out"
        for run in runs
        if run["tokens"]["left_out"]
    ]


def make_page(runs: Sequence[dict[str, Any]]) -> str:
    """The HTML of a report on these runs."""
    parts = {
        "/* STYLES */": "\n".join(map(_asset, STYLES)),
        "/* PROGRAMS */": "\n".join(map(_asset, PROGRAMS)),
        "DATA": to_script({"version": ppo_lm.__version__, "runs": list(runs)}),
    }
    page = _asset("report.html")
    for mark, content in parts.items():
        page = page.replace(mark, content, 1)
    return page


def to_script(content: object) -> str:
    """JSON that cannot end the <script> element it is in, whatever texts it holds."""
    return to_json(content, separators=(",", ":"), default=str).replace("<", "\\u003c")


def _different_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names or, if two are the same, their whole paths."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
