"""From what an engine sampled to completions: where each ends, and its text."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ppo_lm.data.encoding import decode, encode_for, pad, unpad
from ppo_lm.data.examples import Prompt
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.models import BaseModel, PolicyModel
from ppo_lm.rollout.engine import Sampled, SamplingSettings
from ppo_lm.rollout.pick import pick_engine
from ppo_lm.rollout.sampling import draw_uniforms
from ppo_lm.rollout.shares import start_sampling
from ppo_lm.rollout.stop_strings import StopStrings
from ppo_lm.token_attribution import extract_actions


class Completions(NamedTuple):
    """B completions, each up to and including what ended it, EOS or the token that completes a stop string."""

    ids: torch.Tensor  # (B, A) int64, padded after the end
    mask: torch.Tensor  # (B, A) bool
    terminated: torch.Tensor  # (B,) bool: ended by EOS or a stop string
    stopped: torch.Tensor | None  # (B,) bool: by a stop string; None if there are none
    texts: list[str]  # without special tokens, and before the stop string


def read_completions(sampled: Sampled, base: BaseModel, stops: StopStrings) -> Completions:
    """Cut what was sampled at each row's first EOS or stop string, whichever comes first, and decode it."""
    ids, mask, terminated = extract_actions(sampled.ids, base.eos_token_ids, base.pad_token_id)
    rows = unpad(ids, mask)
    if not stops:
        return Completions(ids, mask, terminated, None, [decode(base.tokenizer, row) for row in rows])
    found = [stops.find(row) for row in rows]
    texts = [decode(base.tokenizer, row) if stop is None else stop.text for row, stop in zip(rows, found)]
    lengths = [len(row) if stop is None else stop.tokens for row, stop in zip(rows, found)]
    kept = torch.arange(mask.shape[1], device=mask.device) < torch.tensor(lengths, device=mask.device)[:, None]
    stopped = torch.tensor([stop is not None for stop in found], device=mask.device)
    return Completions(torch.where(kept, ids, base.pad_token_id), mask & kept, terminated | stopped, stopped, texts)


def write_completions(
    policy: PolicyModel,
    prompts: list[Prompt],
    sampling: SamplingSettings,
    batch_size: int = 32,
    seed: int = 0,
    budget: MemoryBudget | None = None,
) -> list[str]:
    """The text of one completion per prompt, in order. `budget`: what fits in memory, learnt by earlier calls."""
    base, budget, texts = policy.base, budget or MemoryBudget(), []
    engine = pick_engine(policy, budget)
    engine.update_weights(policy)
    generator, stops = torch.Generator().manual_seed(seed), StopStrings(base.tokenizer, sampling)
    for start in range(0, len(prompts), batch_size):
        encoded = [encode_for(base, prompt) for prompt in prompts[start : start + batch_size]]
        ids, mask = pad(encoded, base.pad_token_id, side="left", device=base.device)
        uniforms = draw_uniforms(len(ids), sampling, generator, base.device)
        sampled = start_sampling(engine, ids, mask, sampling, uniforms, budget)()
        texts += read_completions(sampled, base, stops).texts
    return texts
