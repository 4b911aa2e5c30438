"""Write a policy in formats that others load."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ppo_lm.errors import writing
from ppo_lm.models import PolicyModel


def save_best(policy: PolicyModel, folder: Path) -> None:
    """Write `folder/best`, with what `save_models` writes but for a merged copy beside an adapter, in place of what is
    there."""
    best, unfinished = folder / "best", folder / ".best.unfinished"
    with writing(best):
        shutil.rmtree(unfinished, ignore_errors=True)
        save_models(policy, unfinished, merged=False)
        shutil.rmtree(best, ignore_errors=True)
        os.replace(unfinished, best)


def save_models(policy: PolicyModel, folder: Path, *, merged: bool = True) -> None:
    """Write `folder/adapter` for plain peft, and `folder/merged` for plain transformers, each with the tokenizer."""
    tokenizer = policy.base.tokenizer
    with writing(folder):
        if policy.role is not None:
            policy.base.save_adapter(policy.role, folder / "adapter")
            tokenizer.save_pretrained(folder / "adapter")
        if merged or policy.role is None:
            policy.base.merged_network(policy.role).save_pretrained(folder / "merged")
            tokenizer.save_pretrained(folder / "merged")
