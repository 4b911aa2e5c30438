"""The settings of the embedded task, for a command that overrides some of them."""

from __future__ import annotations

from typing import Any

from ppo_lm.config.fields import fields_of
from ppo_lm.config.files import embedded_settings
from ppo_lm.config.settings import Settings

NEEDS = {  # a setting → those that must be as in the embedded task for it to be useful
    "value_model": ("model_name", "reward", "advantage_estimator", "value_backbone"),
    "monitor": ("prompts",),
    "demonstrations": ("preferences",),
}
INPUTS = ("prompts", "demonstrations", "preferences", "reward", "value_model", "monitor", "judge")


def embedded_task(command: str, config: type[Settings], named: dict[str, Any]) -> dict[str, Any]:
    """The settings of `ppo-lm COMMAND` for the embedded task, without those that make no sense with what is `named`.

    Example: {"reward": ["sentiment"]} leaves out the value model, which predicts the embedded reward.
    """
    settings, fields = embedded_settings(command), fields_of(config)
    own = {name: settings.get(name, field.default) for name, field in fields.items()}
    changed = {name for name, value in named.items() if name in own and value not in (own[name], [own[name]])}
    return {name: value for name, value in settings.items() if not changed.intersection(NEEDS.get(name, ()))}


def describe_toy_model(config: type[Settings], chosen: dict[str, Any], named: dict[str, Any]) -> str:
    """A sentence for a user who names no model: what is `chosen` for them besides what they `named`."""
    inputs = [name for name in INPUTS if name in chosen and name not in named]
    with_what = f"{', '.join(inputs)} and settings" if inputs else "settings"
    option = "--models" if "models" in fields_of(config) else "--model_name"
    return (
        f"no model is named, so this runs on the embedded toy model, with the {with_what} of the embedded task; name "
        f"your own with {option}"
    )
