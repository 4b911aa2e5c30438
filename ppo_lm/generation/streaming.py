"""An answer as it is written."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ppo_lm.data.encoding import decode
from ppo_lm.data.pieces import INCOMPLETE
from ppo_lm.models import PolicyModel
from ppo_lm.rollout import PlainEngine, SamplingSettings


def stream(
    policy: PolicyModel, ids: list[int], settings: SamplingSettings, generator: torch.Generator
) -> Iterator[str]:
    """The parts of one answer, without special tokens; together, what `PlainEngine` samples with the same numbers."""
    prompt = torch.tensor([ids], device=policy.base.device)
    written, said = [], ""
    for token in PlainEngine(policy).stream(prompt, settings, generator):
        written.append(token)
        text = decode(policy.base.tokenizer, written)
        if not text.endswith(INCOMPLETE):
            yield text[len(said) :]
            said = text
    yield decode(policy.base.tokenizer, written)[len(said) :]
