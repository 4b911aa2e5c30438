"""A trial of every server before a run: does it sample from the distribution that is trained?"""

from __future__ import annotations

import torch

from ppo_lm.data.encoding import encode_for, pad
from ppo_lm.distributed import processes
from ppo_lm.errors import SamplerError
from ppo_lm.health.checks import SAMPLER_GAP
from ppo_lm.rollout.engine import SamplingSettings
from ppo_lm.rollout.remote.dialect import Response
from ppo_lm.rollout.remote.engine import RemoteEngine
from ppo_lm.rollout.remote.pool import Pool
from ppo_lm.rollout.remote.server import Server
from ppo_lm.token_attribution import build_sa_pairs, extract_actions

PROMPTS = ["The weather was", "My sister and I", "In 1987, the price of", "To sort a list,"]
SETTINGS = SamplingSettings(16, temperature=0.5)  # at 1, log-probabilities before and after temperature are the same


def try_servers(engine: RemoteEngine) -> float:
    """Sample a few tokens from each server and compare their log-probabilities with the policy's. Returns the largest
    of the servers' gaps, the mean absolute difference in nats per token. Raises `SamplerError` for a server that fails,
    or whose gap is above `SAMPLER_GAP`."""
    engine.update_weights(engine.policy)
    gaps = {server.url: _gap(engine, server) for server in engine.pool.servers}
    url, gap = max(gaps.items(), key=lambda each: each[1])
    if not gap <= SAMPLER_GAP:
        raise SamplerError(
            f"the sampling server at {url} and the policy disagree by {gap:.2g} nats per token; start it with the same "
            f"base model and dtype as the run, and with {engine.dialect.to_report}"
        )
    return gap


def _gap(engine: RemoteEngine, server: Server) -> float:
    base = engine.policy.base
    prompts = [encode_for(base, text) for text in PROMPTS]

    def ask() -> list[Response]:
        alone = Pool([server], engine.pool.timeout, patience=0)  # one failure is enough
        return engine.ask(alone, prompts, SETTINGS, seeds=list(range(len(prompts))))

    sampled = engine.collect(processes().once(ask), base.device)
    ids, mask, terminated = extract_actions(sampled.ids, base.eos_token_ids, base.pad_token_id)
    prompt_ids, prompt_mask = pad(prompts, base.pad_token_id, side="left", device=base.device)
    pairs = build_sa_pairs(prompt_ids, prompt_mask, ids, mask, terminated, sampled.logprobs)
    with torch.no_grad():
        own = engine.policy.action_logprobs(pairs, SETTINGS.temperature)
    return float((own - pairs.require("old_logprobs")).abs()[mask].mean())
