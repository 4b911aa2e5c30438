"""Files of settings to edit: every setting with its help text, or only those that are not the defaults."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Mapping
from typing import Any

from ppo_lm.config.fields import by_heading, fields_of, help_texts
from ppo_lm.config.files import dump_values
from ppo_lm.config.settings import Settings

WIDTH = 80


def dump_template(config: type[Settings], settings: Mapping[str, Any], command: str) -> str:
    """YAML with every field of `config` under its heading and its help text. Those in `settings` are set, the others
    commented out with their defaults, so that the file changes nothing else."""
    texts = help_texts(config)
    parts = [f"# Settings for: ppo-lm {command} --config THIS_FILE\n# Remove the # before a setting to change it.\n"]
    for heading, fields in by_heading(config).items():
        parts.append(f"\n{f'## {heading} '.ljust(WIDTH, '#')}\n")
        for field in fields:
            parts.append("\n" + _comment(texts[field.name]))
            is_set = field.name in settings
            line = dump_values({field.name: settings[field.name] if is_set else field.default})
            parts.append("\n" + (line if is_set else textwrap.indent(line, "#")))
    return "".join(parts)


_comment = functools.partial(
    textwrap.fill, width=WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
)


def dump_changed(config: type[Settings], settings: Mapping[str, Any]) -> str:
    """YAML with those of the `settings` that are not the default, in the order of the fields."""
    changed = {
        name: settings[name]
        for name, field in fields_of(config).items()
        if name in settings and settings[name] != field.default
    }
    return dump_values(changed)
