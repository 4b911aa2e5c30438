"""Sampling in a fixed number of slots: a response that ends leaves its slot to the next prompt (continuous
batching)."""

from __future__ import annotations

import torch

from ppo_lm.errors import UserError, first_line
from ppo_lm.fast.kv_cache import KVCache
from ppo_lm.models import PolicyModel
from ppo_lm.ops import is_out_of_memory
from ppo_lm.rollout.engine import Sampled, SamplingSettings
from ppo_lm.rollout.sampling import draw_uniforms, sample_tokens


class SlotEngine:
    """Samples from a `PolicyModel` whose network has a decoder of our own (`fast.paths`), made in every call from the
    adapter as it is; prompts are read without padding."""

    def __init__(self, policy: PolicyModel, slots: int, prompt_tokens: int):
        """`slots`: responses under way at once. `prompt_tokens`: tokens of prompts read at once, at least one prompt;
        both bound the memory."""
        self.policy, self.slots, self.prompt_tokens, self._head = policy, slots, prompt_tokens, None

    @torch.no_grad()
    def sample(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        settings: SamplingSettings,
        generator: torch.Generator,
    ) -> Sampled:
        """See `RolloutEngine.sample`. At most `slots` responses are under way at once; half as many when memory runs
        out, from then on."""
        uniforms = draw_uniforms(len(prompt_ids), settings, generator)
        while True:
            try:
                return self._sample(prompt_ids, prompt_mask, settings, uniforms)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if min(self.slots, len(prompt_ids)) == 1:
                    raise UserError(
                        f"out of memory while sampling one response at a time ({first_line(error)}); set max_new_tokens "
                        "lower, or take a smaller model"
                    ) from error
                self.slots = max(min(self.slots, len(prompt_ids)) // 2, 1)

    def _sample(
        self, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, settings: SamplingSettings, uniforms: torch.Tensor
    ) -> Sampled:
        base, slots = self.policy.base, min(self.slots, len(prompt_ids))
        own = base.paths.accelerated
        assert own is not None, "pick_engine takes this engine for no other network"
        decoder, head = own.decoder(self.policy.role, slots), self._head or own.head(slots)
        self._head = head if self.policy.role else None  # with an adapter, nothing trains it
        responses = _Responses(len(prompt_ids), settings, uniforms, base.eos_token_ids, base.pad_token_id)
        lengths = prompt_mask.sum(dim=1).tolist()
        waiting = sorted(range(len(lengths)), key=lengths.__getitem__)  # the longest prompt starts first
        cache = KVCache(decoder, slots, max(lengths) + settings.max_new_tokens)
        while waiting or cache.rows:
            if waiting and slots - len(cache.rows) >= (slots + 7) // 8:
                rows = _take(waiting, slots - len(cache.rows), self.prompt_tokens, lengths)
                hidden = cache.read(rows, prompt_ids[rows], prompt_mask[rows])
                started = len(cache.rows) - len(rows)
            else:
                hidden, started = cache.step(responses.last_tokens(cache.rows)), 0
            ended = responses.extend(cache.rows[started:], head(hidden))
            cache.remove([started + place for place in ended])
        return responses.sampled()


def _take(waiting: list[int], most: int, tokens: int, lengths: list[int]) -> list[int]:
    """Remove rows from the end of `waiting`: at most `most`, of at most `tokens` tokens together, at least one."""
    taken = [waiting.pop()]
    while waiting and len(taken) < most and (tokens := tokens - lengths[taken[-1]]) >= lengths[waiting[-1]]:
        taken.append(waiting.pop())
    return taken


class _Responses:
    """What has been sampled so far, a row a response."""

    def __init__(
        self, rows: int, settings: SamplingSettings, uniforms: torch.Tensor, eos_token_ids: list[int], pad_token_id: int
    ):
        self.settings, self.uniforms = settings, uniforms
        self.eos = torch.tensor(eos_token_ids, device=uniforms.device)
        self.ids = torch.full(uniforms.shape, pad_token_id, device=uniforms.device)
        self.logprobs, self.entropies = torch.zeros(2, *uniforms.shape, device=uniforms.device)
        self.support: torch.Tensor | None = None
        self.made = [0] * rows
        self.check_every = (
            1 if uniforms.device.type == "cpu" else 8
        )  # reading "has it ended?" makes a GPU wait; tokens after EOS are cut off later
        self.ended = torch.zeros(rows, dtype=torch.bool, device=uniforms.device)

    def last_tokens(self, rows: list[int]) -> torch.Tensor:
        return self.ids[rows, [self.made[row] - 1 for row in rows]]

    def extend(self, rows: list[int], logits: torch.Tensor) -> list[int]:
        """Sample one token for each of `rows` from its logits (n, V). Returns the places in `rows` of those that have
        ended."""
        places = [self.made[row] for row in rows]
        token, logprob, entropy, support = sample_tokens(logits, self.settings, self.uniforms[rows, places])
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
        return [
            place for place, row in enumerate(rows) if ended[place] or self.made[row] == self.settings.max_new_tokens
        ]

    def sampled(self) -> Sampled:
        width = max(self.made)
        columns = (self.ids, self.logprobs, self.entropies, self.support)
        return Sampled(*(None if column is None else column[:, :width] for column in columns))
