"""Is a folder free for a new run? Imports no torch, as the command line asks before anything is loaded."""

from __future__ import annotations

from pathlib import Path

LOCK = ".lock"
UNFINISHED = ".*.unfinished"  # what a process was writing or removing when it was killed
TRACEBACK = "traceback.txt"  # of an error in the user's code
ENVIRONMENT = "environment.json"  # what a run ran on
SAMPLES = "samples.jsonl"
HELD_OUT = "held_out.jsonl"  # samples of evaluations
TOKENS = "tokens"  # a folder with a file for each step that was looked at closely
TRACKERS = "trackers.json"  # by which name each experiment tracker knows the run
TOKEN_FILES = "step-*.safetensors"  # in it


def free_folder(wanted: Path) -> Path:
    """`wanted`, or `wanted-2`, `wanted-3`, … if it is not empty."""
    number, folder = 1, wanted
    while holds_files(folder):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def holds_files(folder: Path) -> bool:
    """Whether anything is in the folder, besides what a run that never started leaves there."""
    return folder.is_dir() and any(
        path.name not in (LOCK, TRACEBACK) and not path.match(UNFINISHED) for path in folder.iterdir()
    )
