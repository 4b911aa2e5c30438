"""Sampling in a fixed number of slots: a response that ends leaves its slot to the next prompt (continuous
batching)."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.fast.attention import PackedBatch, attend_rows
from ppo_lm.fast.llama_decoder import CPU_ROW_MULTIPLE, LlamaDecoder
from ppo_lm.fast.packed_linear import PackedLinear
from ppo_lm.fast.packing import Packing, round_up
from ppo_lm.models import PolicyModel
from ppo_lm.rollout.engine import RolloutEngine, Sampled, SamplingSettings
from ppo_lm.rollout.sampling import draw_uniforms, sample_tokens

BLOCK = 32  # tokens that the memory of keys and values grows by


class SlotEngine(RolloutEngine):
    """Samples from a `PolicyModel` in process, if its network is built like Llama (`llama_decoder.why_not`). Prompts
    are read without padding.

    The adapter is merged in every `sample`, into weights of the engine's own that live no longer than that: training
    needs their memory.
    """

    def __init__(self, policy: PolicyModel, budget: MemoryBudget | None = None):
        """`budget`: how many responses are in progress at once, and how many tokens of prompts are read at once (one
        prompt at least)."""
        self.policy, self.budget = policy, budget or MemoryBudget()
        self._heads: dict[int, PackedLinear] = {}  # the one in use, by the slots it is laid out for

    @property
    def description(self) -> str:
        return "sampled in slots, with keys and values kept"

    @torch.no_grad()
    def sample(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        settings: SamplingSettings,
        generator: torch.Generator,
    ) -> Sampled:
        """See `RolloutEngine.sample`. At most `budget.slots` responses are in progress at once."""
        uniforms = draw_uniforms(len(prompt_ids), settings, generator, prompt_ids.device)
        return self.budget.fit_slots(
            len(prompt_ids), lambda slots: self._sample(prompt_ids, prompt_mask, settings, uniforms, slots)
        )

    def _sample(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        settings: SamplingSettings,
        uniforms: torch.Tensor,
        slots: int,
    ) -> Sampled:
        base = self.policy.base
        if slots not in self._heads:
            self._heads.clear()
        decoder = LlamaDecoder(base, self.policy.role, slots, self._heads.get(slots))
        self._heads = {slots: decoder.head} if self.policy.role else {}  # with an adapter, nothing trains the head
        responses = _Responses(len(prompt_ids), settings, uniforms, base.eos_token_ids, base.pad_token_id)
        lengths = prompt_mask.sum(dim=1).tolist()
        waiting = sorted(range(len(lengths)), key=lengths.__getitem__)  # the longest prompt starts first
        cache = _Cache(decoder, slots, max(lengths) + settings.max_new_tokens, base.dtype)
        while waiting or cache.rows:
            if waiting and slots - len(cache.rows) >= (slots + 7) // 8:
                rows = _take(waiting, slots - len(cache.rows), self.budget.tokens, lengths)
                hidden = cache.read(rows, prompt_ids[rows], prompt_mask[rows])
                started = len(cache.rows) - len(rows)
            else:
                hidden, started = cache.step(responses.last_tokens(cache.rows)), 0
            ended = responses.extend(cache.rows[started:], decoder.logits(hidden))
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
        # Reading "has it ended?" makes a GPU wait; tokens after EOS are cut off later.
        self.check_every = 1 if uniforms.device.type == "cpu" else 8
        self.ended = torch.zeros(rows, dtype=torch.bool, device=uniforms.device)

    def last_tokens(self, rows: list[int]) -> torch.Tensor:
        return self.ids[rows, [self.made[row] - 1 for row in rows]]

    def extend(self, rows: list[int], logits: torch.Tensor) -> list[int]:
        """Sample one token for each of `rows` from its logits (n, V). Returns the places in `rows` of those that
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
        support = None if self.support is None else self.support[:, :width]
        return Sampled(self.ids[:, :width], self.logprobs[:, :width], self.entropies[:, :width], support)


class _Cache:
    """Keys and values of the responses under way: slot i, for i < len(rows), is response `rows[i]`.

    They are as long as the longest of them needs, rounded up: matrix products over a part of a longer memory are far
    slower on CPUs.
    """

    def __init__(self, decoder: LlamaDecoder, slots: int, length: int, dtype: torch.dtype):
        self.decoder, self.rows, self.lengths = decoder, [], []
        device = decoder.embedding.weight.device
        self.keys = self.values = torch.zeros(
            len(decoder.layers), slots, decoder.kv_heads, 0, decoder.head_size, dtype=dtype, device=device
        )
        self.cos, self.sin = decoder.rotations(length)
        self.few, self.row_multiple = (True, CPU_ROW_MULTIPLE) if device.type == "cpu" else (False, 1)
        self.heads = torch.arange(slots * decoder.kv_heads, device=device)

    def read(self, rows: list[int], ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Put the prompts (b, P), padded anywhere, into the slots after those in use. Returns the last hidden state of
        each, (b, H)."""
        packing = Packing.of(mask, self.few)
        slot, place, size = packing.row_of + len(self.rows), packing.position_ids, len(packing.tokens)
        self._make_room(packing.width)
        indices = PackedBatch(packing).rows_for(self.decoder.kv_heads, self.decoder.heads // self.decoder.kv_heads)

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            self.keys[layer][slot, :, place], self.values[layer][slot, :, place] = k[:size], v[:size]
            return attend_rows(q, k, v, indices)

        positions = packing.fill(place)
        hidden = self.decoder.hidden_states(packing.take(ids), self.cos[positions], self.sin[positions], attend)
        lengths = mask.sum(dim=1)
        self.rows, self.lengths = self.rows + rows, self.lengths + lengths.tolist()
        return hidden[lengths.cumsum(dim=0) - 1]

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """Add one token to every response, (n,) int64. Returns its hidden state, (n, H)."""
        used, decoder = len(self.rows), self.decoder
        count = min(
            round_up(used, self.row_multiple), self.keys.shape[1]
        )  # slots after those in use compute nothing that is read
        self._make_room(max(self.lengths) + 1)
        size, place = decoder.head_size, torch.tensor(self.lengths + [0] * (count - used), device=ids.device)
        target = (
            self.heads[: count * decoder.kv_heads].view(count, -1) * self.keys.shape[3] + place[:, None]
        ).flatten()
        ahead = torch.arange(self.keys.shape[3], device=ids.device) > place[:, None]
        bias = torch.zeros(ahead.shape, dtype=self.keys.dtype, device=ids.device).masked_fill(ahead, -torch.inf)
        bias = (
            bias.repeat_interleave(decoder.kv_heads, dim=0)[:, None]
            .expand(-1, decoder.heads // decoder.kv_heads, -1)
            .contiguous()
        )

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = self.keys[layer][:count].flatten(0, 1), self.values[layer][:count].flatten(0, 1)
            keys.view(-1, size).index_copy_(0, target, k.reshape(-1, size))
            values.view(-1, size).index_copy_(0, target, v.reshape(-1, size))
            scores = torch.baddbmm(bias, q.reshape(len(bias), -1, size), keys.transpose(1, 2), alpha=size**-0.5)
            return (scores.softmax(dim=-1) @ values).view(count, -1)

        self.lengths = [length + 1 for length in self.lengths]
        return decoder.hidden_states(pad(ids, (0, count - used)), self.cos[place], self.sin[place], attend)[:used]

    def _make_room(self, width: int) -> None:
        more = round_up(width, BLOCK) - self.keys.shape[3]
        if more > 0:
            self.keys, self.values = pad(self.keys, (0, 0, 0, more)), pad(self.values, (0, 0, 0, more))

    def remove(self, places: list[int]) -> None:
        """Free the slots at `places`; responses from the end move into the gaps."""
        for place in sorted(places, reverse=True):
            last, length = len(self.rows) - 1, self.lengths[-1]
            if place != last:
                self.keys[:, place, :, :length], self.values[:, place, :, :length] = (
                    self.keys[:, last, :, :length],
                    self.values[:, last, :, :length],
                )
                self.rows[place], self.lengths[place] = self.rows[last], self.lengths[last]
            del self.rows[-1], self.lengths[-1]
