"""Rewards by name: `sentiment`, `length_target(words=30)`, `remote(url='http://…')`."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

from ppo_lm.errors import RewardError, first_line
from ppo_lm.plugins import Registry

REWARDS: Registry[Callable[..., Any]] = Registry("reward")
"""Factories by name. Called with the arguments given in a configuration, a factory returns a `Reward` or a reward
function."""


def call_by_name(spec: str, role: str) -> tuple[str, Any] | None:
    """(the name, what its factory returns) for `name` or `name(key=value, ...)` with plain values; None if no factory
    is registered under that name. Raises `RewardError` for arguments that cannot be used."""
    found = re.fullmatch(r"(\w+)\s*(?:\((.*)\))?", spec.strip(), re.DOTALL)
    if found is None or found[1] not in REWARDS.names:
        return None
    try:
        call = ast.parse(f"f({found[2] or ''})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("write each value as name=value")
        arguments = {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in call.keywords}
        return found[1], REWARDS.find(found[1])(**arguments)
    except (SyntaxError, TypeError, ValueError, re.error, MemoryError, RecursionError) as error:  # nested too deeply
        raise RewardError(
            f"{role} {spec!r}: {found[1]} cannot be made with these arguments: {first_line(error)}; write it like "
            "length_target(words=30)"
        ) from None
