"""The settings of `ppo-lm doctor`. Does not import torch."""

from __future__ import annotations

import dataclasses

from ppo_lm.config.field_types import Topic
from ppo_lm.config.settings import Settings, checked
from ppo_lm.errors import ConfigError


@checked
@dataclasses.dataclass(kw_only=True)
class DoctorConfig(Settings):
    """Every setting of `ppo-lm doctor`."""

    EVERYDAY = ("folder",)

    POSITIONAL = "folder"

    RUN = Topic("Run folder")

    folder: str | None = None
    """Folder of the run."""

    def require_folder(self) -> str:
        """The folder. Raises `ConfigError` if none is named."""
        if self.folder is None:
            raise ConfigError.of("folder is not set; name the folder of a run: ppo-lm doctor FOLDER")
        return self.folder
