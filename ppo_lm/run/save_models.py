"""Save a policy in formats that other libraries load."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ppo_lm.errors import writing
from ppo_lm.models import PolicyModel
from ppo_lm.models.merging import rounding_note
from ppo_lm.models.model_card import write_policy_card


def save_best(policy: PolicyModel, folder: Path) -> None:
    """Replace `folder/best` with what `save_models` writes, without a merged copy if there is an adapter."""
    best, unfinished = folder / "best", folder / ".best.unfinished"
    with writing(best):
        shutil.rmtree(unfinished, ignore_errors=True)
        save_models(policy, unfinished, merged=False)
        shutil.rmtree(best, ignore_errors=True)
        os.replace(unfinished, best)


def save_adapter(policy: PolicyModel, folder: Path) -> None:
    """Write `folder/adapter` for plain peft, if the policy is an adapter."""
    if policy.role is not None:
        policy.base.save_adapter(policy.role, folder / "adapter")
        write_policy_card(policy.base, folder / "adapter")


def save_models(policy: PolicyModel, folder: Path, *, merged: bool = True) -> list[str]:
    """Write `folder/adapter` for plain peft, and `folder/merged` for plain transformers, each with the tokenizer.
    Returns notes for the user, one sentence each."""
    base, tokenizer, notes = policy.base, policy.base.tokenizer, []
    with writing(folder):
        save_adapter(policy, folder)
        if policy.role is not None:
            tokenizer.save_pretrained(folder / "adapter")
        if merged or policy.role is None:
            network, kept = base.merged_network(policy.role)
            network.save_pretrained(folder / "merged")
            tokenizer.save_pretrained(folder / "merged")
            lost = rounding_note(kept, base.dtype)
            if lost:
                notes.append(f"{folder / 'merged'}: {lost}; {folder / 'adapter'} has all of it")
    return notes
