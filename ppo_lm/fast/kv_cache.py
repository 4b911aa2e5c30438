"""Keys and values of the responses in progress."""

from __future__ import annotations

from types import ModuleType

import torch
from torch.nn.functional import pad

from ppo_lm import kernels
from ppo_lm.fast.attention import PackedBatch, attend_cached, attend_rows, cached_bias, find_kernels
from ppo_lm.fast.blocks import Block
from ppo_lm.fast.decoder import CPU_ROW_MULTIPLE, Attend, Decoder
from ppo_lm.fast.packing import Packing, has_few_sizes, round_up
from ppo_lm.kernels import cpu

FEWEST_PROGRAMS = 128  # for our kernel to be faster than torch's, which splits long rows
GROWTH = 32  # tokens by which the memory of keys and values grows


def keep(
    k: torch.Tensor,
    v: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
    places: torch.Tensor,
) -> None:
    """Write the keys and values of n tokens, (n, KV, D), into memory, (slots, KV, T, D), at each token's slot and
    place, (n,) int64."""
    own = kernels.find_on_gpu(k, v, keys, values)
    if own:
        own.keep(k, v, keys, values, slots, places)
    else:
        keys[slots, :, places], values[slots, :, places] = k, v


class KVMemory:
    """A decoder, and the keys and values of one response per slot. What is where, the caller knows.

    A response's tokens are at places 0, 1, … of its slot. `feed` does the same operations on the same memory in every
    step, and never waits for the device.
    """

    def __init__(self, decoder: Decoder, slots: int, length: int, width: int):
        """`length`: the maximum number of tokens, prompt and response together. `width`: tokens that there is memory
        for at first."""
        self.decoder, self.slots, self.length, device = decoder, slots, length, decoder.device
        block = decoder.blocks[0]
        self.kv_heads, self.groups = block.kv_heads, block.heads // block.kv_heads
        self.windows = {block.window for block in decoder.blocks}
        self.keys, self.values = torch.zeros(
            2, len(decoder.blocks), slots, self.kv_heads, width, block.head_size, dtype=decoder.dtype, device=device
        )
        self.cos, self.sin = decoder.rotations(length)
        self.few = has_few_sizes(decoder.embedding.weight)
        self.all_slots = torch.arange(slots, device=device)

    @property
    def width(self) -> int:
        return self.keys.shape[3]

    def read(self, slots: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Put the prompts (b, P), padded anywhere, into `slots` (b,) int64. Returns the last hidden state of each, (b,
        H)."""
        packing = Packing.of(mask, self.few)
        slot, place, size = slots[packing.row_of], packing.position_ids, len(packing.tokens)
        indices = PackedBatch(packing).rows_for(self.kv_heads, self.groups)

        def attend(block: Block, index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keep(k[:size], v[:size], self.keys[index], self.values[index], slot, place)
            return attend_rows(q, k, v, indices, block.scale, block.window)

        positions = packing.fill(place)
        hidden = self.decoder.hidden_states(packing.take(ids), self.cos[positions], self.sin[positions], attend)
        return hidden[mask.sum(dim=1).cumsum(dim=0) - 1]

    def feed(self, ids: torch.Tensor, place: torch.Tensor, width: int) -> torch.Tensor:
        """Add one token to each of the first n slots, (n,) int64, at its place (n,) int64. Returns its hidden state,
        (n, H). `width`: more than any place that is read."""
        own = self.find_kernels(len(place))
        if own is cpu and self.decoder.parts:
            x, cos, sin = self.decoder.embedding(ids), self.cos[place], self.sin[place]
            return cpu.decode(self.decoder.parts, x, cos, sin, place, self.keys, self.values)
        attend = self._attend_by(own, place) if own else self._attend(place, width)
        return self.decoder.hidden_states(ids, self.cos[place], self.sin[place], attend)

    def find_kernels(self, count: int) -> ModuleType | None:
        """Our own kernels, which read no more than there is to read, for `count` new tokens. Only many of them keep a
        GPU busy: each head of each is one program."""
        enough = self.keys.device.type == "cpu" or count * self.kv_heads >= FEWEST_PROGRAMS
        return find_kernels(self.keys, self.values) if enough else None

    def _attend_by(self, own: ModuleType, place: torch.Tensor) -> Attend:
        """How new tokens at `place` (n,) attend, by kernels of our own, which also keep their keys and values."""

        def attend(block: Block, index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return own.attend_cached(q, k, v, self.keys[index], self.values[index], place, block.scale, block.window)

        return attend

    def _attend(self, place: torch.Tensor, width: int) -> Attend:
        """The same by torch's attention."""
        count = len(place)
        slots = self.all_slots[:count]
        biases = {window: self._bias(place, window, width) for window in self.windows}

        def attend(block: Block, index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = self.keys[index], self.values[index]
            keep(k, v, keys, values, slots, place)
            bias = biases[block.window]
            return attend_cached(q, keys[:count, :, :width], values[:count, :, :width], bias, block.scale)

        return attend

    def _bias(self, place: torch.Tensor, window: int | None, width: int) -> torch.Tensor:
        """For `attend_cached`: 0 where the tokens at `place` (n,) may attend, −inf elsewhere."""
        places = torch.arange(width, device=place.device)
        hidden = places > place[:, None]
        if window is not None:
            hidden = hidden | (places <= place[:, None] - window)
        return cached_bias(hidden, self.keys.dtype, self.kv_heads, self.groups)

    def clear(self) -> None:
        """Forget everything. What is not finite would otherwise spoil later responses: a weight of 0 does not hide
        it."""
        self.keys.zero_()
        self.values.zero_()

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a response of `length` tokens to another slot."""
        for memory in (self.keys, self.values):
            memory[:, target, :, :length] = memory[:, source, :, :length]

    def widen(self, width: int) -> None:
        """Make memory for `width` tokens."""
        more = (0, 0, 0, width - self.width)
        self.keys, self.values = pad(self.keys, more), pad(self.values, more)


class KVCache:
    """Keeps account of a `KVMemory`: slot i, for i < len(rows), is response `rows[i]`.

    The memory is as long as the longest response needs, rounded up: matrix products over part of a longer memory are
    far slower on CPUs.
    """

    def __init__(self, decoder: Decoder, slots: int, length: int):
        """`length`: the maximum number of tokens, prompt and response together."""
        self.memory, self.rows, self.lengths = KVMemory(decoder, slots, length, 0), [], []
        self.row_multiple = CPU_ROW_MULTIPLE if decoder.device.type == "cpu" else 1

    def read(self, rows: list[int], ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Put the prompts (b, P), padded anywhere, into the slots after those in use. Returns the last hidden state of
        each, (b, H)."""
        lengths = mask.sum(dim=1).tolist()
        self._make_room(max(lengths))
        slots = torch.arange(len(self.rows), len(self.rows) + len(rows), device=ids.device)
        self.rows, self.lengths = self.rows + rows, self.lengths + lengths
        return self.memory.read(slots, ids, mask)

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """Add one token to every response, (n,) int64. Returns its hidden state, (n, H)."""
        used = len(self.rows)
        # slots after those in use compute nothing that is read
        count = min(round_up(used, self.row_multiple), self.memory.slots)
        self._make_room(max(self.lengths) + 1)
        place = torch.tensor(self.lengths + [0] * (count - used), device=ids.device)
        self.lengths = [length + 1 for length in self.lengths]
        return self.memory.feed(pad(ids, (0, count - used)), place, self.memory.width)[:used]

    def _make_room(self, width: int) -> None:
        width = round_up(width, GROWTH)
        if width > self.memory.width:
            self.memory.widen(width)

    def remove(self, places: list[int]) -> None:
        """Free the slots at `places`; responses from the end move into the gaps."""
        for place in sorted(places, reverse=True):
            last, length = len(self.rows) - 1, self.lengths[-1]
            if place != last:
                self.memory.move(last, place, length)
                self.rows[place], self.lengths[place] = self.rows[last], self.lengths[last]
            del self.rows[-1], self.lengths[-1]
