"""What a reward function is given besides prompts and completions."""

from __future__ import annotations

from collections.abc import Mapping

from ppo_lm.types import SAPairs


def response_columns(columns: Mapping[str, list] | None, sa_pairs: SAPairs) -> dict[str, list]:
    """The data's columns, and those that a response brings: `terminated` (it ended by itself) and `completion_ids` (its
    tokens)."""
    ids = [row[mask].tolist() for row, mask in zip(sa_pairs.action_ids, sa_pairs.action_mask)]
    return {**(columns or {}), "terminated": sa_pairs.terminated.tolist(), "completion_ids": ids}
