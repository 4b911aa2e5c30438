"""An answer as it is written."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ppo_lm.data.encoding import decode
from ppo_lm.data.pieces import INCOMPLETE
from ppo_lm.models import PolicyModel
from ppo_lm.rollout import PlainEngine, SamplingSettings, StopStrings, draw_uniforms


def stream(
    policy: PolicyModel, ids: list[int], settings: SamplingSettings, generator: torch.Generator
) -> Iterator[str]:
    """The parts of one answer, without special tokens and before a stop string; together, the completion that
    `PlainEngine` samples with the same numbers. Text that may be the beginning of a stop string waits until it is known
    not to be."""
    prompt, tokenizer = torch.tensor([ids], device=policy.base.device), policy.base.tokenizer
    stops, written, said, text = StopStrings(tokenizer, settings), [], 0, ""
    uniforms = draw_uniforms(1, settings, generator, prompt.device)
    for token in PlainEngine(policy).stream(prompt, settings, uniforms):
        written.append(token)
        stop = stops.find(written, looked_at=len(written) - 1)
        text = decode(tokenizer, written) if stop is None else stop.text
        if stop is not None:
            break
        if not text.endswith(INCOMPLETE):
            ready = max(len(text) - stops.held_back(text), said)
            yield text[said:ready]
            said = ready
    yield text[said:]
