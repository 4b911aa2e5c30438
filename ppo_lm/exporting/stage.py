"""From the folder of a run to a folder for other programs, and to the hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ppo_lm.base_setup import check_can_quantise
from ppo_lm.config import ExportConfig
from ppo_lm.config.output_folder import free_folder
from ppo_lm.errors import ConfigError, Problems
from ppo_lm.exporting.content import Content
from ppo_lm.exporting.elsewhere import Elsewhere
from ppo_lm.exporting.hub import check_can_push, describe_upload, push
from ppo_lm.exporting.places import Places
from ppo_lm.exporting.run_parts import RunParts
from ppo_lm.exporting.source import Source, read_source
from ppo_lm.models.model_card import CARD
from ppo_lm.reading import user_path
from ppo_lm.saving import whole_folder

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
        done = [f"written to {self.folder}: {', '.join(self.parts)} and {CARD}", *self.would_upload]
        return [*done, f"uploaded to {self.address}"] if self.address else done


def run_export(config: ExportConfig, note: Callable[[str], object] = lambda sentence: None) -> Exported:
    """Write the parts of a run, each into a folder of its name, the model card and the learning curve; or, with `to`,
    what another program needs to repeat the run. With `push_to_hub`, upload it. `note` gets a sentence for each
    decision made for the user. Raises `UserError`, with all problems at once, before anything is loaded or written."""
    problems = Problems("ExportConfig")
    source = problems.attempt(read_source, config.run)
    if source is not None:
        problems.attempt(check_can_quantise, source.quantisation)
    content = None if source is None else problems.attempt(_choose_content, config, source)
    folder = None if source is None else problems.attempt(_choose_folder, config, source.folder)
    if config.push_to_hub is not None and not config.dry_run:
        problems.attempt(check_can_push)
    problems.raise_all()
    assert content is not None and folder is not None  # or `raise_all` would have raised
    for sentence in content.decisions():
        note(sentence)
    with whole_folder(folder) as unfinished:
        for sentence in content.write(unfinished):
            note(sentence)
    if config.push_to_hub is not None and not config.dry_run:
        note(f"uploading {folder} to {config.push_to_hub}")
    return _upload(config, content.places, Exported(folder, content.places.parts))


def _choose_content(config: ExportConfig, source: Source) -> Content:
    return RunParts(config, source) if config.to is None else Elsewhere(config.to, source)


def _choose_folder(config: ExportConfig, run_folder: Path) -> Path:
    if config.out is None:
        return free_folder(run_folder / FOLDER)
    folder = user_path(config.out, "out")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError.of(f"out is {config.out!r}, which exists and is not empty; choose another folder")
    return folder


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
