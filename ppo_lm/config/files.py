"""YAML files of settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ppo_lm.config.settings import Settings
from ppo_lm.errors import ConfigError, UserError
from ppo_lm.reading import Loader, Unreadable, read_yaml

EMBEDDED_SETTINGS = Path(__file__).parents[1] / "embedded" / "settings"


class _Dumper(yaml.SafeDumper):
    """Quotes text that `reading.Loader` would read as something else."""

    yaml_implicit_resolvers = Loader.yaml_implicit_resolvers


def read_settings(file: Path, source: str) -> dict[str, Any]:
    """The settings in a YAML file. Raises `ConfigError`, naming the option `source`, if it cannot be read."""
    try:
        settings = read_yaml(file)
    except Unreadable as error:
        raise ConfigError([f"{file} cannot be read: it {error}"], source) from None
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise ConfigError([f"{file} has no settings; write one `field: value` per line"], source)
    return settings


def read_run_settings(file: Path, source: str) -> dict[str, Any]:
    """The settings of a run, from its config.yaml. Raises `UserError` if there is none; see `read_settings`."""
    if not file.exists():
        raise UserError(f"there is no run in {str(file.parent)!r}: it has no config.yaml")
    return read_settings(file, source)


def is_ppo_run(settings: Mapping[str, Any]) -> bool:
    """Whether these are the settings of a PPO run rather than of another stage."""
    return "ppo_epochs" in settings


def dump_settings(config: Settings) -> str:
    """The YAML text of a configuration, which `read_settings` reads."""
    return dump_values(dataclasses.asdict(config))


def dump_values(settings: Mapping[str, Any]) -> str:
    """The YAML text of some settings, in their order; empty if there are none."""
    return yaml.dump(dict(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True) if settings else ""


def embedded_settings(command: str) -> dict[str, Any]:
    """The settings of `ppo-lm COMMAND` for the embedded task."""
    return read_settings(EMBEDDED_SETTINGS / f"{command}.yaml", "embedded")
