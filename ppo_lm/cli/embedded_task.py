"""The settings of the embedded task, for a command that uses it with settings of its own."""

from __future__ import annotations

from typing import Any

from ppo_lm.config.fields import fields_of
from ppo_lm.config.files import embedded_settings
from ppo_lm.config.settings import Settings

GOES_WITH = {  # a setting → those that it is left out with, if one has another value than in the embedded task
    "value_model": ("model_name", "reward", "advantage_estimator", "value_backbone"),
    "monitor": ("prompts",),
    "demonstrations": ("preferences",),
}


def embedded_task(command: str, config: type[Settings], named: dict[str, Any]) -> dict[str, Any]:
    """The settings of `ppo-lm COMMAND` for the embedded task, without those that do not go with what is `named`.

    Example: {"reward": ["sentiment"]} leaves the value model out, which foresees the embedded reward.
    """
    settings, fields = embedded_settings(command), fields_of(config)

    def is_other(name: str) -> bool:
        own = settings.get(name, fields[name].default)
        return name in named and named[name] not in (own, [own])

    left_out = {
        name for name, others in GOES_WITH.items() if any(other in fields and is_other(other) for other in others)
    }
    return {name: value for name, value in settings.items() if name not in left_out}
