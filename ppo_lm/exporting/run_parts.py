"""The parts of a run with a model card and the learning curve."""

from __future__ import annotations

import shutil
from pathlib import Path

from ppo_lm.config import ExportConfig
from ppo_lm.config.export_config import ADAPTER, GGUF, MERGED, REWARD, VALUE
from ppo_lm.errors import Problems
from ppo_lm.exporting.card import CURVE, make_card
from ppo_lm.exporting.content import Content
from ppo_lm.exporting.gguf import find_converter
from ppo_lm.exporting.header import is_on_hub
from ppo_lm.exporting.places import Places
from ppo_lm.exporting.source import STAGE_PARTS, Source, choose_parts
from ppo_lm.exporting.writing import write_parts
from ppo_lm.health.checks import steps_of
from ppo_lm.health.doctor import read_rows
from ppo_lm.health.rows import METRICS
from ppo_lm.models.model_card import CARD
from ppo_lm.saving import write_text
from ppo_lm.tracking.picture import draw_learning_curve


class RunParts(Content):
    """Each part in a folder of its name. Raises `UserError` if one, or the converter to GGUF, is missing."""

    def __init__(self, config: ExportConfig, source: Source):
        self.config, self.source = config, source
        problems = Problems("ExportConfig")
        parts = problems.attempt(choose_parts, source, config.parts)
        self.converter = problems.attempt(find_converter, config) if GGUF in (config.parts or []) else []
        problems.raise_all()
        self.places = Places(config.push_to_hub, parts)

    def decisions(self) -> list[str]:
        """Which models these are, which parts there are not, and an adapter whose base others cannot load."""
        config, source, parts = self.config, self.source, self.places.parts
        made = list(dict.fromkeys(source.models[part].description for part in parts))
        if config.parts is None:
            made += [f"no {part}: {why}" for part, why in source.missing.items() if part in STAGE_PARTS[source.stage]]
        if config.push_to_hub and {ADAPTER, VALUE, REWARD} & set(parts) and not is_on_hub(source.base):
            made.append(
                f"the adapter's base is {source.base}, which others cannot load from the hub; export {MERGED}, or "
                "upload the base too"
            )
        return made

    def write(self, folder: Path) -> list[str]:
        """The parts, the picture and the card."""
        notes = write_parts(self.source, self.places.parts, folder, self.converter)
        self._write_curve(folder)
        name = (self.config.push_to_hub or self.source.folder.resolve().name).rpartition("/")[2]
        write_text(folder / CARD, make_card(self.source, self.places, folder, name))
        return notes

    def _write_curve(self, folder: Path) -> None:
        """The run's picture; of a run that has none yet, the same of its steps so far."""
        if (self.source.folder / CURVE).is_file():
            shutil.copyfile(self.source.folder / CURVE, folder / CURVE)
            return
        steps = [row for row in steps_of(read_rows(self.source.folder / METRICS)) if "score" in row]
        if steps:
            draw_learning_curve(steps, "monitor", folder / CURVE)
