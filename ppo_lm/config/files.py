"""YAML files of settings."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml

from ppo_lm.config.settings import Settings
from ppo_lm.errors import ConfigError, first_line

EMBEDDED_SETTINGS = Path(__file__).parents[1] / "embedded" / "settings"


class _Loader(yaml.SafeLoader):
    """Reads 1e-5 as a number, which YAML 1.1 takes for text, and 2024-01-31 as text, which it takes for a date."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would read as something else."""


for _yaml in (_Loader, _Dumper):
    _yaml.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":float", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"),
        list("-+.0123456789"),
    )


def parse_yaml(text: str) -> Any:
    """Parse YAML. Raises `ValueError`, with the line, if it is invalid."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}{error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(first_line(error)) from None


def read_settings(file: Path, source: str) -> dict[str, Any]:
    """The settings in a YAML file. Raises `ConfigError`, naming the option `source`, if it cannot be read."""
    try:
        settings = parse_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{file} cannot be read: {error.strerror}"], source) from None
    except ValueError as error:
        raise ConfigError([f"{file} cannot be read: {first_line(error)}"], source) from None
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise ConfigError([f"{file} has no settings; write one `field: value` per line"], source)
    return settings


def dump_settings(config: Settings) -> str:
    """The YAML text of a configuration, which `read_settings` reads."""
    return yaml.dump(dataclasses.asdict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def embedded_settings(command: str) -> dict[str, Any]:
    """The settings of `ppo-lm COMMAND` for the embedded task."""
    return read_settings(EMBEDDED_SETTINGS / f"{command}.yaml", "embedded")
