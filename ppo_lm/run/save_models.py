"""Save the trained models in formats that other libraries, and later runs, load."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from ppo_lm.models import PolicyModel, ValueModel
from ppo_lm.models.loading import without_bars
from ppo_lm.models.merging import rounding_note
from ppo_lm.models.model_card import write_policy_card
from ppo_lm.saving import whole_folder


def save_best(policy: PolicyModel, folder: Path) -> None:
    """Replace `folder/best` with what `save_models` writes, without a merged copy if there is an adapter."""
    with whole_folder(folder / "best") as best:
        save_models(policy, best, merged=False)


def gathered_to_save(policy: PolicyModel, *, merged: bool = True) -> AbstractContextManager[None]:
    """Inside this context, which all processes have to enter, the first one can call `save_models`, even if the weights
    are sharded."""
    return policy.base.gathered() if merged or policy.role is None else nullcontext()


def save_adapter(policy: PolicyModel, folder: Path) -> None:
    """Write the policy's adapter for plain peft, if it is one."""
    if policy.role is not None:
        policy.base.save_adapter(policy.role, folder)
        write_policy_card(policy.base, folder)


def save_value(value: ValueModel | None, folder: Path) -> None:
    """Write the value model, from which a later run can start, if there is one with an adapter of its own."""
    if value is not None and value.has_own_adapter:
        value.save(folder)


def save_whole_value(value: ValueModel | None, folder: Path) -> None:
    """Replace `folder/value` with what `save_value` writes."""
    if value is not None and value.has_own_adapter:
        with whole_folder(folder / "value") as place:
            value.save(place)


def save_models(policy: PolicyModel, folder: Path, *, merged: bool = True) -> list[str]:
    """Write `folder/adapter` for plain peft, and `folder/merged` for plain transformers, each with the tokenizer.
    Returns notes for the user, one sentence each. Raises `StorageError` if they cannot be written."""
    if policy.role is not None:
        save_adapter_with_tokenizer(policy, folder)
    lost = save_merged(policy, folder) if merged or policy.role is None else None
    return [f"{folder / 'merged'}: {lost}; {folder / 'adapter'} has all of it"] if lost else []


def save_adapter_with_tokenizer(policy: PolicyModel, folder: Path) -> None:
    """Write `folder/adapter`; the policy must be an adapter."""
    with whole_folder(folder / "adapter") as adapter:
        policy.base.tokenizer.save_pretrained(adapter)
        save_adapter(policy, adapter)


def save_merged(policy: PolicyModel, folder: Path, name: str = "merged") -> str | None:
    """Write `folder/name`. Returns a clause if rounding loses some of the adapter."""
    network, kept = policy.base.merged_network(policy.role)
    with whole_folder(folder / name) as whole, without_bars():
        network.save_pretrained(whole)
        policy.base.tokenizer.save_pretrained(whole)
    return rounding_note(kept, policy.base.dtype)
