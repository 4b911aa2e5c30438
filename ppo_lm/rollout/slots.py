"""The state of the responses in progress, as tensors that stay where they are: a step is the same operations on the
same memory every time, and never waits for the device, so a CUDA graph can be made of it."""

from __future__ import annotations

import torch

from ppo_lm.fast.decoder import Head
from ppo_lm.fast.kv_cache import KVMemory
from ppo_lm.rollout.engine import SamplingSettings
from ppo_lm.rollout.sampling import find_excluded, sample_tokens, uniform_dtype


class Slots:
    """One response in every slot of a `KVMemory`, running or not. A slot that is not running computes what nobody
    reads."""

    def __init__(self, memory: KVMemory, head: Head, settings: SamplingSettings, eos_token_ids: list[int], kept: int):
        """`kept`: the number of tokens that truncation leaves to sample from, 0 without truncation."""
        self.memory, self.head, self.settings = memory, head, settings
        device, columns = memory.keys.device, settings.max_new_tokens
        self.eos = torch.tensor(eos_token_ids, device=device)
        # per slot: the last token, the tokens in memory, the tokens sampled, and whether there are more to come
        self.token, self.length, self.made = torch.zeros(3, memory.slots, dtype=torch.int64, device=device)
        self.running = torch.zeros(memory.slots, dtype=torch.bool, device=device)
        # with one more column, which takes what is sampled after the last token
        shape = memory.slots, columns + 1
        self.uniforms = torch.zeros(shape, dtype=uniform_dtype(device), device=device)
        self.ids = torch.zeros(shape, dtype=torch.int64, device=device)
        self.logprobs, self.entropies = torch.zeros(2, *shape, device=device)
        self.support = torch.zeros(*shape, kept, dtype=torch.int64, device=device) if kept else None

    def start(self, places: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, uniforms: torch.Tensor) -> None:
        """Begin responses to the prompts (b, P) in the slots `places` (b,) int64, and sample their first tokens.
        `uniforms`: (b, max_new_tokens)."""
        hidden = self.memory.read(places, ids, mask)
        self.uniforms[places, :-1] = uniforms
        self.length[places] = mask.sum(dim=1)
        self.made[places] = 0
        self.running[places] = True
        self._extend(places, hidden)

    def step(self, count: int, width: int) -> None:
        """One more token for each of the first `count` slots that are running; see `KVMemory.feed`."""
        hidden = self.memory.feed(self.token[:count], self.length[:count], width)
        self.length[:count] += self.running[:count]
        self._extend(slice(count), hidden)

    def _extend(self, places: torch.Tensor | slice, hidden: torch.Tensor) -> None:
        made, running = self.made[places], self.running[places]
        # a slot that is not running keeps what it has: its number of tokens may be that of any column
        column = torch.where(running, made, self.settings.max_new_tokens)[:, None]
        uniforms = self.uniforms[places].gather(1, column)[:, 0]
        excluded = find_excluded(self.settings, self.eos, made)
        token, logprob, entropy, support = sample_tokens(self.head(hidden), self.settings, uniforms, excluded)
        rows = torch.arange(len(self.made), device=column.device)[places]
        self.ids[rows, column[:, 0]] = token
        self.logprobs[rows, column[:, 0]], self.entropies[rows, column[:, 0]] = logprob, entropy
        if self.support is not None and support is not None:
            self.support[rows, column[:, 0]] = support
        made = made + running
        ended = (token[:, None] == self.eos).any(dim=1) | (made == self.settings.max_new_tokens)
        self.token[places], self.made[places], self.running[places] = token, made, running & ~ended

    def move(self, source: int, target: int, length: int) -> None:
        """Put the response in slot `source`, of `length` tokens, into another slot."""
        self.memory.move(source, target, length)
        for state in (self.token, self.length, self.made, self.running, self.uniforms, *self.columns()):
            state[target] = state[source]
        self.running[source] = False

    def columns(self) -> list[torch.Tensor]:
        """What was sampled: ids, log-probabilities, entropies and, with truncation, supports; (slots, max_new_tokens +
        1, ...)."""
        return [self.ids, self.logprobs, self.entropies, *([] if self.support is None else [self.support])]
