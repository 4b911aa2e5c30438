"""Save a policy in formats that other libraries load."""

from __future__ import annotations

from pathlib import Path

from ppo_lm.models import PolicyModel
from ppo_lm.models.loading import without_bars
from ppo_lm.models.merging import rounding_note
from ppo_lm.models.model_card import write_policy_card
from ppo_lm.saving import whole_folder


def save_best(policy: PolicyModel, folder: Path) -> None:
    """Replace `folder/best` with what `save_models` writes, without a merged copy if there is an adapter."""
    with whole_folder(folder / "best") as best:
        save_models(policy, best, merged=False)


def save_adapter(policy: PolicyModel, folder: Path) -> None:
    """Write the policy's adapter for plain peft, if it is one."""
    if policy.role is not None:
        policy.base.save_adapter(policy.role, folder)
        write_policy_card(policy.base, folder)


def save_models(policy: PolicyModel, folder: Path, *, merged: bool = True) -> list[str]:
    """Write `folder/adapter` for plain peft, and `folder/merged` for plain transformers, each with the tokenizer.
    Returns notes for the user, one sentence each. Raises `StorageError` if they cannot be written."""
    base, tokenizer, notes = policy.base, policy.base.tokenizer, []
    if policy.role is not None:
        with whole_folder(folder / "adapter") as adapter:
            tokenizer.save_pretrained(adapter)
            save_adapter(policy, adapter)
    if merged or policy.role is None:
        network, kept = base.merged_network(policy.role)
        with whole_folder(folder / "merged") as whole, without_bars():
            network.save_pretrained(whole)
            tokenizer.save_pretrained(whole)
        lost = rounding_note(kept, base.dtype)
        if lost:
            notes.append(f"{folder / 'merged'}: {lost}; {folder / 'adapter'} has all of it")
    return notes
