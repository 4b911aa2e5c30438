"""Sampling in slots whose memory grows with the responses."""

from __future__ import annotations

import torch

from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.fast.decoder import Head
from ppo_lm.fast.kv_cache import KVCache
from ppo_lm.models import PolicyModel
from ppo_lm.progress import phase
from ppo_lm.rollout.engine import Sampled, SamplingSettings
from ppo_lm.rollout.in_slots import InSlots, Waiting
from ppo_lm.rollout.sampling import find_excluded, sample_tokens
from ppo_lm.rollout.stop_strings import EVERY, StopStrings


class SlotEngine(InSlots):
    """Every `sample` builds the decoder from the current adapter and frees it afterwards: training needs the memory."""

    def __init__(self, policy: PolicyModel, budget: MemoryBudget | None = None):
        """See `InSlots`."""
        super().__init__(policy, budget)
        self._heads: dict[int, Head] = {}  # the current one, by the number of slots it is laid out for

    @property
    def description(self) -> str:
        return "sampled in slots, with keys and values kept"

    def _sample(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        settings: SamplingSettings,
        uniforms: torch.Tensor,
        slots: int,
    ) -> _Responses:
        base = self.policy.base
        own = base.paths.accelerated
        assert own is not None, "make_slot_engine takes no other network"
        if slots not in self._heads:
            self._heads.clear()
        decoder, head = own.decoder(self.policy.role, slots), self._heads.get(slots) or own.head(slots)
        self._heads = {slots: head} if self.policy.role else {}  # with an adapter, nothing trains the head
        stops = StopStrings(base.tokenizer, settings)
        responses = _Responses(len(prompt_ids), settings, uniforms, base.eos_token_ids, base.pad_token_id, stops)
        lengths = prompt_mask.sum(dim=1).tolist()
        waiting = Waiting(lengths)
        cache = KVCache(decoder, slots, max(lengths) + settings.max_new_tokens)
        with phase("sampling", len(prompt_ids), "responses") as progress:
            while waiting or cache.rows:
                if waiting.should_start(slots - len(cache.rows), slots):
                    rows = waiting.take(slots - len(cache.rows), self.budget.tokens)
                    hidden = cache.read(rows, prompt_ids[rows], prompt_mask[rows])
                    started = len(cache.rows) - len(rows)
                else:
                    hidden, started = cache.step(responses.last_tokens(cache.rows)), 0
                ended = responses.extend(cache.rows[started:], head(hidden))
                cache.remove([started + place for place in ended])
                progress.done += len(ended)
        return responses


class _Responses:
    """What has been sampled so far, one row per response."""

    def __init__(
        self,
        rows: int,
        settings: SamplingSettings,
        uniforms: torch.Tensor,
        eos_token_ids: list[int],
        pad_token_id: int,
        stops: StopStrings,
    ):
        self.settings, self.uniforms, self.stops = settings, uniforms, stops
        self.eos = torch.tensor(eos_token_ids, device=uniforms.device)
        self.ids = torch.full(uniforms.shape, pad_token_id, device=uniforms.device)
        self.logprobs, self.entropies = torch.zeros(2, *uniforms.shape, device=uniforms.device)
        self.support: torch.Tensor | None = None
        self.made = [0] * rows
        self.looked_at = [0] * rows  # tokens by which no stop string has ended the response
        # Checking for EOS makes the CPU wait for the GPU; tokens after EOS are cut off later.
        self.check_every = 1 if uniforms.device.type == "cpu" else 8
        self.ended = torch.zeros(rows, dtype=torch.bool, device=uniforms.device)

    def last_tokens(self, rows: list[int]) -> torch.Tensor:
        return self.ids[rows, [self.made[row] - 1 for row in rows]]

    def extend(self, rows: list[int], logits: torch.Tensor) -> list[int]:
        """Sample one token for each of `rows` from its logits (n, V). Returns the places in `rows` of those that
        ended."""
        places = [self.made[row] for row in rows]
        excluded = find_excluded(self.settings, self.eos, places)
        token, logprob, entropy, support = sample_tokens(logits, self.settings, self.uniforms[rows, places], excluded)
        self.ids[rows, places], self.logprobs[rows, places], self.entropies[rows, places] = token, logprob, entropy
        if support is not None:
            if self.support is None:
                self.support = torch.full((*self.ids.shape, support.shape[1]), -1, device=support.device)
            self.support[rows, places] = support
        self.ended[rows] |= torch.isin(token, self.eos)
        for row in rows:
            self.made[row] += 1
        due = self.made[rows[0]] % self.check_every == 0
        ended = self.ended[rows].tolist() if due else [False] * len(rows)
        stopped = self._stopped(rows)
        return [
            place
            for place, row in enumerate(rows)
            if ended[place] or row in stopped or self.made[row] == self.settings.max_new_tokens
        ]

    def _stopped(self, rows: list[int]) -> set[int]:
        """Those of `rows` that a stop string has ended, as far as they are due to be looked at."""
        due = [row for row in rows if self.made[row] - self.looked_at[row] >= EVERY] if self.stops else []
        if not due:
            return set()
        found = set()
        for row, ids in zip(due, self.ids[due, : max(self.made[row] for row in due)].tolist()):
            if self.stops.find(ids[: self.made[row]], self.looked_at[row]):
                found.add(row)
            self.looked_at[row] = self.made[row]
        return found

    def sampled(self) -> Sampled:
        """See `Responses.sampled`."""
        width = max(self.made)
        support = None if self.support is None else self.support[:, :width].clone()
        return Sampled(
            self.ids[:, :width].clone(), self.logprobs[:, :width].clone(), self.entropies[:, :width].clone(), support
        )
