"""The engine whose responses servers sample."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ppo_lm.data.encoding import pad
from ppo_lm.distributed import processes
from ppo_lm.errors import ConfigError
from ppo_lm.models import PolicyModel
from ppo_lm.rollout.engine import RolloutEngine, Sampled, SamplingSettings
from ppo_lm.rollout.remote.adapters import Adapter, AdapterFolders
from ppo_lm.rollout.remote.dialect import Dialect, Request, Response
from ppo_lm.rollout.remote.pool import Pool
from ppo_lm.rollout.remote.server import Server
from ppo_lm.rollout.sampling import seed_of
from ppo_lm.services import run


class RemoteEngine(RolloutEngine):
    """Sends the policy's adapter to servers, and one request a row, each with a seed of its own; see
    docs/remote_sampling.md."""

    is_remote = True

    def __init__(
        self,
        policy: PolicyModel,
        dialect: Dialect,
        urls: Sequence[str],
        folder: Path | None,
        timeout: float,
        kept: int = 2,
        say: Callable[[str], None] = lambda line: None,
    ):
        """`dialect`: the kind of the servers. `folder`: where adapters are written, for the servers to read; None for a
        temporary folder. `timeout`: seconds for one response, and for a server to come back. `kept`: versions of the
        adapter, the present one included. `say`: called with one line when a server begins to fail, and when it is
        dropped."""
        self.policy, self.dialect, self.say = policy, dialect, say
        self.pool = Pool([Server(dialect, url, kept) for url in urls], timeout, timeout)
        self.folders = AdapterFolders(folder, kept)
        self._unsaid: list[str] = []  # what happened in other threads
        self.adapter: Adapter | None = None
        self.found = ""  # what was found of the servers, for the screen

    @property
    def description(self) -> str:
        count = len(self.pool.servers)
        return f"sampled by {count} {self.dialect.name} server{'s' if count > 1 else ''}{self.found}"

    def update_weights(self, policy: PolicyModel) -> None:
        """If the adapter has changed, write it under a new name and have the servers load it; the first process does.
        Raises `ModelError` if the policy is not an adapter, `StorageError` if it cannot be written."""

        def publish() -> Adapter:
            while self._unsaid:
                self.say(self._unsaid.pop(0))
            adapter = self.folders.write(policy)
            run(self.pool.load(adapter, self.say))
            return adapter

        self.adapter = processes().once(publish)

    def snapshot(self) -> RemoteEngine:
        """See `RolloutEngine.snapshot`: with the present version of the adapter."""
        return copy.copy(self)

    @torch.no_grad()
    def sample(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        settings: SamplingSettings,
        uniforms: torch.Tensor,
    ) -> Sampled:
        """See `RolloutEngine.sample`. Responses do not end at stop strings. Raises `SamplerError` if no server is
        left."""
        prompts = [ids[mask].tolist() for ids, mask in zip(prompt_ids, prompt_mask)]
        responses = self.ask(self.pool, prompts, settings, [seed_of(row) for row in uniforms])
        sampled = self.collect(responses, prompt_ids.device)
        if settings.temperature == 0:  # greedy has log-probability 0
            return Sampled(sampled.ids, torch.zeros_like(sampled.logprobs))
        return sampled

    def ask(self, pool: Pool, prompts: list[list[int]], settings: SamplingSettings, seeds: list[int]) -> list[Response]:
        """One response of the current adapter to each prompt."""
        if settings.truncates(self.policy.base.network.config.get_text_config().vocab_size):
            raise ConfigError.of(
                f"top_k is {settings.top_k} and top_p is {settings.top_p}, but {self.dialect.name} does not "
                "report which tokens remain to sample from; set top_k to 0 and top_p to 1"
            )
        assert self.adapter is not None, "update_weights comes first"
        name, ends = self.adapter.name, self.policy.base.eos_token_ids
        requests = [Request(name, prompt, settings, list(ends), seed) for prompt, seed in zip(prompts, seeds)]
        in_main = threading.current_thread() is threading.main_thread()  # only there may a run be told of anything
        return run(pool.sample(self.adapter, requests, self.say if in_main else self._unsaid.append))

    def collect(self, responses: list[Response], device: torch.device) -> Sampled:
        """Responses as one batch, padded after their ends."""
        ids, mask = pad([response.ids for response in responses], self.policy.base.pad_token_id, side="right")
        logprobs = torch.zeros(ids.shape)
        logprobs[mask] = torch.tensor([number for response in responses for number in response.logprobs])
        return Sampled(ids.to(device), logprobs.to(device))
