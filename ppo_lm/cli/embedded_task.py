"""The settings of the embedded task, for a command that overrides some of them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ppo_lm.config.fields import fields_of
from ppo_lm.config.files import embedded_settings
from ppo_lm.config.settings import Settings
from ppo_lm.errors import ConfigError

NEEDS = {  # a setting → those that must be as in the embedded task for it to be useful
    "value_model": ("model_name", "reward", "advantage_estimator", "value_backbone"),
    "monitor": ("prompts",),
    "demonstrations": ("preferences",),
}


def embedded_task(command: str, config: type[Settings], named: dict[str, Any]) -> dict[str, Any]:
    """The settings of `ppo-lm COMMAND` for the embedded task, without those that make no sense with what is `named`.

    Example: {"reward": ["sentiment"]} leaves out the value model, which predicts the embedded reward.
    """
    settings, fields = embedded_settings(command), fields_of(config)
    own = {name: settings.get(name, field.default) for name, field in fields.items()}
    changed = {name for name, value in named.items() if name in own and value not in (own[name], [own[name]])}
    if "advantage_estimator" in changed and _needs_values(named["advantage_estimator"]):
        changed.remove("advantage_estimator")
    return {name: value for name, value in settings.items() if not changed.intersection(NEEDS.get(name, ()))}


def _needs_values(estimator: object) -> bool:
    from ppo_lm.advantage import ESTIMATORS

    with suppress(ConfigError):  # the run reports it, with all other problems
        return isinstance(estimator, str) and ESTIMATORS.find(estimator).needs_values
    return False
