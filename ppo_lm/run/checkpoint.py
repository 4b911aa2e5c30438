"""Checkpoints on disk: a folder per step, written under a temporary name and then renamed, with a checksum for every
file. Tensors are in safetensors, the rest in JSON: nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from ppo_lm.errors import CheckpointError, StorageError, first_line, writing
from ppo_lm.reading import read_json
from ppo_lm.reading.files import Missing

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
LARGEST_MANIFEST = 2**16  # bytes


class Checkpoint(NamedTuple):
    """What determines the next step of a run: tensors by name, and plain values that JSON can hold."""

    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]

    @classmethod
    def of(cls, parts: Mapping[str, Mapping[str, Any]], state: Mapping[str, Any]) -> Checkpoint:
        """A checkpoint of parts by name, each a mapping of names to tensors and plain values."""
        tensors, plain = {}, {}
        for part, values in parts.items():
            plain[part] = {name: value for name, value in values.items() if not isinstance(value, torch.Tensor)}
            tensors |= {f"{part}/{name}": value for name, value in values.items() if isinstance(value, torch.Tensor)}
        return cls(tensors, {**state, "parts": plain})

    def parts(self) -> dict[str, dict[str, Any]]:
        """The parts that `of` was given."""
        found = {part: dict(values) for part, values in self.state["parts"].items()}
        for name, tensor in self.tensors.items():
            part, _, rest = name.partition("/")
            found[part][rest] = tensor
        return found

    def is_finite(self) -> bool:
        """Whether it is free of NaN and infinity."""
        return all(bool(tensor.isfinite().all()) for tensor in self.tensors.values() if tensor.is_floating_point())


def save_checkpoint(run_folder: Path, step: int, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write `run_folder/checkpoints/step-NNNNNN`, flushed to disk; the `keep` newest are kept. An existing one of the
    same step is not overwritten: the new one becomes step-NNNNNN-002, and so on."""
    place = _free_place(run_folder / "checkpoints" / f"step-{step:06d}")
    unfinished = place.with_name(f".{place.name}.unfinished")
    for half_written in place.parent.glob(".*.unfinished"):  # by a process that was killed
        shutil.rmtree(half_written, ignore_errors=True)
    try:
        with writing(place):
            _write(unfinished, checkpoint)
            os.replace(unfinished, place)
            _flush(place.parent)
    except StorageError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for old in list_checkpoints(run_folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    folder.mkdir(parents=True)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}, folder / TENSORS
    )
    (folder / STATE).write_text(json.dumps(checkpoint.state), encoding="utf-8")
    sums = {name: _checksum(folder / name) for name in (TENSORS, STATE)}
    (folder / MANIFEST).write_text(json.dumps({"sha256": sums}, indent=1) + "\n", encoding="utf-8")
    for path in (*sorted(folder.iterdir()), folder):
        _flush(path)


def _free_place(wanted: Path) -> Path:
    number, place = 1, wanted
    while place.exists():
        number += 1
        place = wanted.with_name(f"{wanted.name}-{number:03d}")
    return place


def list_checkpoints(run_folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted((run_folder / "checkpoints").glob("step-*"))


def load_checkpoint(run_folder: Path) -> tuple[Checkpoint, list[str]]:
    """The newest intact checkpoint of a run, and a sentence for each newer one that is damaged. Raises
    `CheckpointError` if there is none."""
    damage = []
    for folder in reversed(list_checkpoints(run_folder)):
        problem = _damage(folder)
        if problem is None:
            return Checkpoint(load_file(folder / TENSORS), read_json(folder / STATE, allow_nan=True)), damage
        damage.append(f"checkpoint {folder} is damaged: {problem}; it is kept, and the one before it is used")
    if damage:
        raise CheckpointError(
            "\n".join([*damage, f"resume {str(run_folder)!r}: all checkpoints in it are damaged; start a new run"])
        )
    raise CheckpointError(
        f"resume {str(run_folder)!r}: there is no checkpoint in it (checkpoints/step-...); give the folder of an "
        "interrupted run"
    )


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files; None if they are intact."""
    try:
        sums = read_json(folder / MANIFEST, largest=LARGEST_MANIFEST)["sha256"]
        if not isinstance(sums, dict):
            raise TypeError("it has no checksums")
        for name in (TENSORS, STATE):
            if _checksum(folder / name) != sums[name]:
                return f"{name} does not match its checksum"
    except Missing:
        return f"{MANIFEST} is missing"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} or a file that it lists cannot be read ({first_line(error)})"
    return None


def _checksum(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while piece := content.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def remove_checkpoints(run_folder: Path) -> None:
    """Remove all checkpoints of a finished run: there is nothing left to resume."""
    shutil.rmtree(run_folder / "checkpoints", ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
