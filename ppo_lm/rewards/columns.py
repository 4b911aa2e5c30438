"""Check that the data has the columns a reward reads."""

from __future__ import annotations

from collections.abc import Iterable

from ppo_lm.data import RESERVED, PromptSet
from ppo_lm.errors import RewardError
from ppo_lm.rewards.reward import Reward


def check_prompt_columns(reward: Reward, prompts: PromptSet, role: str, source: str) -> None:
    """`check_columns` for prompts read from `source`."""
    have = ", ".join(prompts.columns) or "no other column"
    found = f"the prompts {source!r} have {have}; add the column, or choose another {role}"
    check_columns(reward, prompts.columns, role, found)


def check_columns(reward: Reward, columns: Iterable[str], role: str, found: str) -> None:
    """Raise `RewardError` if the reward needs a column of the data that is not among `columns`. `role` is the setting
    that names the reward, `found` completes the message: what there is and what to do."""
    missing = reward.missing_columns(columns)
    if missing:
        raise RewardError(
            f"{role} {reward.name} needs {', '.join(map(repr, missing))}, but {found}; apart from columns, a reward "
            f"gets {', '.join(RESERVED)}"
        )
