"""The settings of `ppo-lm report`. Does not import torch."""

from __future__ import annotations

import dataclasses
from typing import Literal

from ppo_lm.config.field_types import Topic
from ppo_lm.config.settings import Settings, checked
from ppo_lm.errors import ConfigError

TokenNumber = Literal[
    "kl",
    "rewards",
    "values",
    "td_errors",
    "advantages",
    "returns",
    "reward_to_go",
    "ratios",
    "entropies",
    "old_logprobs",
    "ref_logprobs",
]


@checked
@dataclasses.dataclass(kw_only=True)
class ReportConfig(Settings):
    """Every setting of `ppo-lm report`."""

    EVERYDAY = ("folders", "out", "terminal", "colour_by")

    POSITIONAL = "folders"

    RUN = Topic("Run folder")

    folders: list[str] | None = None
    """Folders of runs; several are shown side by side."""
    out: str | None = None
    """HTML file to write. Default: report.html in the run's folder; for several runs, in the current folder."""
    terminal: bool = False
    """Print the report in the terminal instead of writing a file."""
    colour_by: TokenNumber = "advantages"
    """What colours the tokens in the terminal."""

    def require_folders(self) -> list[str]:
        """The folders. Raises `ConfigError` if none is named."""
        if not self.folders:
            raise ConfigError.of("folders is not set; name the folder of a run: ppo-lm report FOLDER")
        return self.folders
