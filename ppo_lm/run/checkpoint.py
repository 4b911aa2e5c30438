"""Checkpoints on disk: a folder per step, written under a temporary name and then renamed, with a checksum for every
file. Tensors are in safetensors, the rest in JSON: nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from ppo_lm.config.output_folder import UNFINISHED
from ppo_lm.distributed.slices import gather, is_sharded
from ppo_lm.errors import CheckpointError, first_line
from ppo_lm.reading import read_json
from ppo_lm.reading.files import Missing
from ppo_lm.saving import remove, remove_whole, whole_folder, write_text

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
FINISHED = "finished"  # a mark that is added later, so it is not in the manifest
SPELT_OUT = "not finite"
LARGEST_MANIFEST = 2**16  # bytes
NAME = re.compile(r"step-(\d{6,})(?:-(\d{3,}))?")


class Checkpoint(NamedTuple):
    """What determines the next step of a run: tensors by name, and plain values that JSON can hold. `finished`: whether
    the run ended with it."""

    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]
    finished: bool = False

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

    @property
    def is_sharded(self) -> bool:
        """Whether this process holds only slices of some tensors."""
        return any(is_sharded(tensor) for tensor in self.tensors.values())

    def gathered(self) -> Checkpoint:
        """The whole checkpoint in the first process; the others have to ask for it too."""
        return self._replace(tensors=gather(self.tensors))

    def is_finite(self) -> bool:
        """Whether it is free of NaN and infinity."""
        return all(bool(tensor.isfinite().all()) for tensor in self.tensors.values() if tensor.is_floating_point())


def save_checkpoint(
    run_folder: Path,
    step: int,
    checkpoint: Checkpoint,
    keep: int = 2,
    export: Callable[[Path], object] = lambda folder: None,
) -> Path:
    """Write `run_folder/checkpoints/step-NNNNNN`, flushed to disk; the `keep` newest intact ones are kept. An existing
    one of the same step is not overwritten: the new one becomes step-NNNNNN-002, and so on. `export` adds files of its
    own to the folder."""
    place = _free_place(run_folder / "checkpoints" / f"step-{step:06d}")
    _remove_unfinished(run_folder)
    with whole_folder(place) as folder:
        _write(folder, checkpoint, export)
    _remove_older(run_folder, place, keep)
    return place


def _write(folder: Path, checkpoint: Checkpoint, export: Callable[[Path], object]) -> None:
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}, folder / TENSORS
    )
    (folder / STATE).write_text(json.dumps(_spelt_out(checkpoint.state), allow_nan=False), encoding="utf-8")
    export(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {file.relative_to(folder).as_posix(): _checksum(file) for file in files}
    (folder / MANIFEST).write_text(json.dumps({"sha256": sums}, indent=1) + "\n", encoding="utf-8")


def finish_checkpoints(run_folder: Path) -> Path | None:
    """Keep only the newest intact checkpoint, then mark it as that of a finished run. Returns its folder, if there is
    one."""
    last = last_intact_checkpoint(run_folder)
    if last is not None:
        _remove_older(run_folder, last, keep=1)
        _remove_unfinished(run_folder)
        write_text(last / FINISHED, "")
    return last


def _remove_unfinished(run_folder: Path) -> None:
    """Remove what a process was writing or removing when it was killed."""
    for path in (run_folder / "checkpoints").glob(UNFINISHED):
        with suppress(OSError):
            remove(path)


def _remove_older(run_folder: Path, newest: Path, keep: int) -> None:
    """Remove checkpoints once `keep` newer ones, `newest` among them, are intact. What is damaged does not count."""
    others = [folder for folder in reversed(list_checkpoints(run_folder)) if folder != newest]
    if len(others) < keep:  # whatever their condition, so they need not be read
        return
    intact = 1
    for folder in others:
        if intact < keep:
            intact += _damage(folder) is None
        elif os.path.isfile(folder / MANIFEST):  # False where it may not be read
            with suppress(OSError):
                remove_whole(folder)


def _free_place(wanted: Path) -> Path:
    number, place = 1, wanted
    while place.exists():
        number += 1
        place = wanted.with_name(f"{wanted.name}-{number:03d}")
    return place


def list_checkpoints(run_folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first, intact, damaged or not readable. Whatever else is in the folder
    is not ours: other names, and folders without a file of a checkpoint."""
    named = {path: NAME.fullmatch(path.name) for path in (run_folder / "checkpoints").glob("step-*")}
    ours = {
        path: (int(name[1]), int(name[2] or 1))
        for path, name in named.items()
        if name and (not _may_enter(path) or any(os.path.isfile(path / file) for file in (TENSORS, STATE, MANIFEST)))
    }
    return sorted(ours, key=ours.__getitem__)


def _may_enter(path: Path) -> bool:
    return not path.is_dir() or os.access(path, os.R_OK | os.X_OK)


def last_intact_checkpoint(run_folder: Path) -> Path | None:
    """The newest checkpoint that can be resumed; None if there is none."""
    return next((folder for folder in reversed(list_checkpoints(run_folder)) if _damage(folder) is None), None)


def read_state(folder: Path) -> dict[str, Any]:
    """The plain values of the checkpoint in `folder`."""
    return _numbers(read_json(folder / STATE, allow_nan=True))  # as older versions wrote it


def _spelt_out(value: Any) -> Any:
    """With NaN and infinity, for which JSON has no words, as texts in an object."""
    if isinstance(value, float) and not math.isfinite(value):
        return {SPELT_OUT: str(value)}
    if isinstance(value, (list, tuple)):
        return [_spelt_out(each) for each in value]
    return {name: _spelt_out(each) for name, each in value.items()} if isinstance(value, Mapping) else value


def _numbers(value: Any) -> Any:
    """Undo `_spelt_out`."""
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    if not isinstance(value, dict):
        return value
    return float(value[SPELT_OUT]) if value.keys() == {SPELT_OUT} else {n: _numbers(each) for n, each in value.items()}


def is_finished(folder: Path) -> bool:
    """Whether the checkpoint in `folder` is that of a finished run."""
    return (folder / FINISHED).is_file()


def load_checkpoint(run_folder: Path) -> tuple[Checkpoint, list[str]]:
    """The newest intact checkpoint of a run, and a sentence for each newer one that is damaged. Raises
    `CheckpointError` if there is none."""
    damage = []
    for folder in reversed(list_checkpoints(run_folder)):
        problem = _damage(folder)
        if problem is None:
            return Checkpoint(load_file(folder / TENSORS), read_state(folder), is_finished(folder)), damage
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
        for name in {TENSORS: None, STATE: None, **sums}:
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
