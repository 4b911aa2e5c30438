"""The parts of an export, each in a folder of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

from ppo_lm.base_setup import load_adapter, load_base
from ppo_lm.config.export_config import ADAPTER, GGUF, MERGED, REWARD, VALUE
from ppo_lm.exporting.gguf import convert
from ppo_lm.exporting.source import Source
from ppo_lm.models import PolicyModel
from ppo_lm.run.save_models import save_adapter_with_tokenizer, save_merged
from ppo_lm.saving import remove


def write_parts(source: Source, parts: list[str], folder: Path, converter: list[str]) -> list[str]:
    """Write the parts into `folder`. `converter`: the command that makes GGUF, if that is wanted. Returns notes for the
    user, one sentence each. Raises `UserError`."""
    for part in (VALUE, REWARD):
        if part in parts:
            shutil.copytree(source.models[part].folder, folder / part)
    notes = _write_policy(source, parts, folder) if {ADAPTER, MERGED, GGUF} & set(parts) else []
    if GGUF in parts:
        convert(converter, folder / MERGED, folder, source.folder.resolve().name)
    if MERGED not in parts:
        remove(folder / MERGED)
    return notes


def _write_policy(source: Source, parts: list[str], folder: Path) -> list[str]:
    if ADAPTER not in source.models:
        shutil.copytree(source.models[MERGED].folder, folder / MERGED)
        return []
    policy = _load_policy(source)
    if ADAPTER in parts:
        save_adapter_with_tokenizer(policy, folder)
    lost = save_merged(policy, folder) if {MERGED, GGUF} & set(parts) else None
    return [f"{MERGED}: {lost}; {ADAPTER} has all of it"] if lost else []


def _load_policy(source: Source) -> PolicyModel:
    """The policy on its base, in the dtype that it was trained in and quantised as it was, on the CPU: the base is
    frozen, so the adapter that is saved and the sum that is merged are those of the run."""
    dtype = str(source.dtype).removeprefix("torch.")
    base = load_base(
        source.base, dtype, "cpu", seed=source.settings["seed"], fast=False, quantisation=source.quantisation
    )
    load_adapter(base, "policy", source.models[ADAPTER].folder)
    return PolicyModel(base)
