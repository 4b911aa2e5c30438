"""The settings of `ppo-lm export`. Does not import torch."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from ppo_lm.config.field_types import Topic
from ppo_lm.config.other_names import did_you_mean
from ppo_lm.config.settings import Settings, checked

ADAPTER, MERGED, VALUE, REWARD, GGUF = PARTS = ("adapter", "merged", "value", "reward", "gguf")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@checked
@dataclasses.dataclass(kw_only=True)
class ExportConfig(Settings):
    """Every setting of `ppo-lm export`."""

    EVERYDAY = ("run", "parts", "to", "out", "gguf_converter", "push_to_hub", "private", "dry_run")

    POSITIONAL = "run"

    RUN = Topic("Run folder")

    run: str | None = None
    """Folder of a run of train, sft, reward or value, finished or not."""
    parts: list[str] | None = None
    """What to export; repeat the option for several: adapter (for peft and vLLM), merged (a transformers model), value
    (for train --value_model), reward (for train --reward, and a sequence classifier), gguf (for llama.cpp). Default:
    all that the run has, without gguf."""
    to: Literal["verl", "openrlhf"] | None = None
    """Instead of parts, write what another program needs to repeat a run of train: its settings in a start script, the
    prompts, and plain SFT, value and reward models; verl or openrlhf."""
    out: str | None = None
    """Folder to write, which must not hold anything yet. Default: export in the run's folder, or export-2 and so on if
    it is taken."""
    gguf_converter: str | None = None
    """llama.cpp's convert_hf_to_gguf.py. Default: convert_hf_to_gguf.py or convert-hf-to-gguf on the PATH."""

    HUB = Topic("Hugging Face hub")

    push_to_hub: str | None = None
    """OWNER/NAME of the model repository to upload the export to; it is created if it does not exist."""
    private: bool = True
    """A repository that is created is private."""
    dry_run: bool = False
    """With push_to_hub: say what would be uploaded, without any network."""

    def clashes(self) -> list[str]:
        clashes = super().clashes()
        clashes += [
            f"parts names {part!r}, which is none of {', '.join(PARTS)}{did_you_mean(part, PARTS, otherwise='')}"
            for part in self.parts or []
            if part not in PARTS
        ]
        clashes += [
            f"{name} is set, but to is {self.to}, which writes a folder of its own; set one of them"
            for name in ("parts", "push_to_hub")
            if self.to and getattr(self, name)
        ]
        if self.gguf_converter and GGUF not in (self.parts or []):
            clashes.append("gguf_converter is set, but parts does not name gguf; add it, with the other parts you want")
        if self.push_to_hub is not None and not REPOSITORY.fullmatch(self.push_to_hub):
            clashes.append(f"push_to_hub is {self.push_to_hub!r}; it must be OWNER/NAME of a model repository")
        if self.dry_run and self.push_to_hub is None:
            clashes.append("dry_run is set, but push_to_hub is not; name the repository")
        return clashes
