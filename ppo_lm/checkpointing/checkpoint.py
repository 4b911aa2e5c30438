"""Checkpoints on disk: a folder a step, written beside its place and moved there whole. Tensors in safetensors, the rest in JSON: nothing is unpickled."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

from ppo_lm.errors import CheckpointError, first_line

KEPT = 2
TENSORS, STATE = "tensors.safetensors", "state.json"


class Checkpoint(NamedTuple):
    """What decides the next step: tensors by name, and plain values."""

    tensors: dict[str, torch.Tensor]
    state: dict


def save_checkpoint(run_folder: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write `run_folder/checkpoints/step-NNNNNN`, flushed to disk; the `KEPT` newest are kept."""
    place = run_folder / "checkpoints" / f"step-{step:06d}"
    unfinished = place.with_name(f".{place.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}, unfinished / TENSORS)
    (unfinished / STATE).write_text(json.dumps(checkpoint.state), encoding="utf-8")
    for path in (unfinished / TENSORS, unfinished / STATE, unfinished):
        _flush(path)
    shutil.rmtree(place, ignore_errors=True)
    os.replace(unfinished, place)
    _flush(place.parent)
    for old in list_checkpoints(run_folder)[:-KEPT]:
        shutil.rmtree(old)
    return place


def list_checkpoints(run_folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted((run_folder / "checkpoints").glob("step-*"))


def load_checkpoint(run_folder: Path) -> Checkpoint:
    """The newest checkpoint of a run. Raises `CheckpointError` if there is none or it cannot be read."""
    found = list_checkpoints(run_folder)
    if not found:
        raise CheckpointError(f"resume {str(run_folder)!r}: there is no checkpoint in it (checkpoints/step-...); name the folder of a run that was paused")
    try:
        return Checkpoint(load_file(found[-1] / TENSORS), json.loads((found[-1] / STATE).read_text(encoding="utf-8")))
    except Exception as error:  # safetensors has errors of its own
        raise CheckpointError(f"checkpoint {found[-1]} cannot be read: {first_line(error)}; remove it, and the one before it is used") from error


def remove_checkpoints(run_folder: Path) -> None:
    """Remove all checkpoints of a run that is finished: there is nothing to go on to."""
    shutil.rmtree(run_folder / "checkpoints", ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
