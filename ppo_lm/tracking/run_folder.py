"""The folder of a run, and the files every kind of run writes into it."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import yaml

from ppo_lm.config.settings import Settings
from ppo_lm.errors import ConfigError


def check_output_dir(output_dir: str) -> None:
    """Raise `ConfigError` unless the folder exists or can be made, and can be written to."""
    folder = Path(output_dir).expanduser()
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError([f"output_dir is {output_dir!r}, but {there} is a file; name a folder"])
    if not os.access(there, os.W_OK):
        raise ConfigError([f"output_dir is {output_dir!r}, but {there} cannot be written to; name another folder"])


def make_run_folder(wanted: Path) -> Path:
    """Make and return `wanted`, or `wanted-2`, `wanted-3`, … if a run is in it already: no run overwrites another."""
    folder, number = wanted, 1
    while folder.exists() and any(folder.iterdir()):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_config(folder: Path, config: Settings) -> None:
    """Write `config.yaml`, which `--config` reads."""
    settings = yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)
    (folder / "config.yaml").write_text(settings, encoding="utf-8")


def append_record(file: Path, record: dict) -> None:
    """Add a line to a .jsonl file."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record, ensure_ascii=False) + "\n")


def drop_later_steps(folder: Path, step: int) -> list[dict]:
    """Cut metrics.jsonl and samples.jsonl back to what was recorded up to `step`; a last line that was torn in writing goes too. Returns the metrics left."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        file = folder / name
        *lines, torn = file.read_text(encoding="utf-8").split("\n") if file.is_file() else [""]
        records = [json.loads(line) for line in lines]
        kept = [record for record in records if record["step"] <= step]
        if len(kept) < len(records) or torn:
            file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept), encoding="utf-8")
        if name == "metrics.jsonl":
            metrics = kept
    return metrics


def clock(seconds: float) -> str:
    """Minutes and seconds, "2:05"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
