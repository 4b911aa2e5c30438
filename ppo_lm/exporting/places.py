"""Where the parts of an export are: on this machine, and in a repository of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ppo_lm.config.export_config import GGUF
from ppo_lm.models.model_card import CARD


class Places(NamedTuple):
    """`repository`: OWNER/NAME, or None for an export that stays on this machine, where each part is in a folder of its
    name. In a repository, a single part is at the root, where other programs look for it."""

    repository: str | None
    parts: list[str]

    def arguments(self, part: str) -> str:
        """The arguments that name a part in Python; without a repository, `folder` is the path of the card's folder."""
        if self.repository is None:
            return f'f"{{folder}}/{part}"'
        return repr(self.repository) + (f", subfolder={part!r}" if part != self.root else "")

    def path(self, part: str) -> str:
        """The path of a part below the folder of the card."""
        return "." if self.repository and part == self.root else part

    def repository_or_path(self, part: str) -> str:
        """For programs that take the id of a repository with the part at its root, or else a path."""
        return self.repository if self.repository and part == self.root else self.path(part)

    @property
    def root(self) -> str | None:
        """The part at the root of the repository."""
        folders = [part for part in self.parts if part != GGUF]
        return folders[0] if len(folders) == 1 else None

    def uploads(self, folder: Path) -> dict[str, Path]:
        """The files of the export in `folder`, by their path in the repository."""
        files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
        if self.root is None:
            return files
        replaced = f"{self.root}/{CARD}"  # the export's own card takes its place
        return {name.removeprefix(f"{self.root}/"): file for name, file in files.items() if name != replaced}
