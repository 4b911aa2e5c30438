"""From the folder of a run to a folder for other programs, and to the hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ppo_lm.config import ExportConfig
from ppo_lm.config.export_config import ADAPTER, GGUF, MERGED, REWARD, VALUE
from ppo_lm.config.output_folder import free_folder
from ppo_lm.errors import ConfigError, Problems
from ppo_lm.exporting.card import CURVE, make_card
from ppo_lm.exporting.gguf import find_converter
from ppo_lm.exporting.header import is_on_hub
from ppo_lm.exporting.hub import check_can_push, describe_upload, push
from ppo_lm.exporting.places import Places
from ppo_lm.exporting.source import STAGE_PARTS, Source, choose_parts, read_source
from ppo_lm.exporting.writing import write_parts
from ppo_lm.health.checks import steps_of
from ppo_lm.health.doctor import read_rows
from ppo_lm.health.rows import METRICS
from ppo_lm.models.model_card import CARD
from ppo_lm.reading import user_path
from ppo_lm.saving import whole_folder, write_text
from ppo_lm.tracking.picture import draw_learning_curve

FOLDER = "export"  # in the folder of the run


class Exported(NamedTuple):
    """What was written, and the address that it was uploaded to, if it was. `would_upload`: of a dry run, line by
    line."""

    folder: Path
    parts: list[str]
    address: str | None = None
    would_upload: Sequence[str] = ()

    def lines(self) -> list[str]:
        """What was done, for people."""
        done = [f"written to {self.folder}: {', '.join(self.parts)} and the model card {CARD}", *self.would_upload]
        return [*done, f"uploaded to {self.address}"] if self.address else done


def run_export(config: ExportConfig, note: Callable[[str], object] = lambda sentence: None) -> Exported:
    """Write the parts of a run, each into a folder of its name, the model card and the learning curve; with
    `push_to_hub`, upload them. `note` gets a sentence for each decision made for the user. Raises `UserError`, with all
    problems at once, before anything is loaded or written."""
    problems = Problems("ExportConfig")
    source = problems.attempt(read_source, config.run)
    parts = None if source is None else problems.attempt(choose_parts, source, config.parts)
    folder = None if source is None else problems.attempt(_choose_folder, config, source.folder)
    converter = problems.attempt(find_converter, config) if GGUF in (config.parts or []) else []
    if config.push_to_hub is not None and not config.dry_run:
        problems.attempt(check_can_push)
    problems.raise_all()
    assert source is not None and parts is not None and folder is not None  # or `raise_all` would have raised
    for sentence in _decisions(config, source, parts):
        note(sentence)
    places = Places(config.push_to_hub, parts)
    name = (config.push_to_hub or source.folder.resolve().name).rpartition("/")[2]
    with whole_folder(folder) as unfinished:
        for sentence in write_parts(source, parts, unfinished, converter):
            note(sentence)
        _write_curve(source, unfinished)
        write_text(unfinished / CARD, make_card(source, places, unfinished, name))
    if config.push_to_hub is not None and not config.dry_run:
        note(f"uploading {folder} to {config.push_to_hub}")
    return _upload(config, places, Exported(folder, parts))


def _choose_folder(config: ExportConfig, run_folder: Path) -> Path:
    if config.out is None:
        return free_folder(run_folder / FOLDER)
    folder = user_path(config.out, "out")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError.of(f"out is {config.out!r}, which exists and is not empty; choose another folder")
    return folder


def _decisions(config: ExportConfig, source: Source, parts: list[str]) -> list[str]:
    """A sentence for each."""
    made = list(dict.fromkeys(source.models[part].description for part in parts))
    if config.parts is None:
        made += [f"no {part}: {why}" for part, why in source.missing.items() if part in STAGE_PARTS[source.stage]]
    if config.push_to_hub and {ADAPTER, VALUE, REWARD} & set(parts) and not is_on_hub(source.base):
        made.append(
            f"the adapter's base is {source.base}, which others cannot load from the hub; export {MERGED}, or upload "
            "the base too"
        )
    return made


def _write_curve(source: Source, folder: Path) -> None:
    """The run's picture; of a run that has none yet, the same of its steps so far."""
    if (source.folder / CURVE).is_file():
        shutil.copyfile(source.folder / CURVE, folder / CURVE)
        return
    steps = [row for row in steps_of(read_rows(source.folder / METRICS)) if "score" in row]
    if steps:
        draw_learning_curve(steps, "monitor", folder / CURVE)


def _upload(config: ExportConfig, places: Places, exported: Exported) -> Exported:
    if config.push_to_hub is None:
        return exported
    uploads = places.uploads(exported.folder)
    if not config.dry_run:
        return exported._replace(address=push(config.push_to_hub, uploads, config.private))
    head = (exported.folder / CARD).read_text(encoding="utf-8").partition("\n---\n")[0]
    lines = [
        *describe_upload(config.push_to_hub, uploads, config.private),
        f"{CARD} begins:",
        *head.splitlines(),
        "---",
    ]
    return exported._replace(would_upload=lines)
