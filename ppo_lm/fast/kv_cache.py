"""Keys and values of the responses in progress."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from ppo_lm.fast.attention import PackedBatch, attend_cached, attend_rows
from ppo_lm.fast.blocks import Block
from ppo_lm.fast.decoder import CPU_ROW_MULTIPLE, Decoder
from ppo_lm.fast.packing import Packing, round_up

GROWTH = 32  # tokens by which the memory of keys and values grows


class KVCache:
    """A decoder, and the keys and values of the responses that it is writing: slot i, for i < len(rows), is response
    `rows[i]`.

    They are as long as the longest response needs, rounded up: matrix products over part of a longer memory are far
    slower on CPUs.
    """

    def __init__(self, decoder: Decoder, slots: int, length: int):
        """`length`: the maximum number of tokens, prompt and response together."""
        self.decoder, self.rows, self.lengths = decoder, [], []
        block, device = decoder.blocks[0], decoder.device
        self.kv_heads, self.groups, self.head_size = block.kv_heads, block.heads // block.kv_heads, block.head_size
        self.windows = {block.window for block in decoder.blocks}
        self.keys = self.values = torch.zeros(
            len(decoder.blocks), slots, self.kv_heads, 0, self.head_size, dtype=decoder.dtype, device=device
        )
        self.cos, self.sin = decoder.rotations(length)
        self.few, self.row_multiple = (True, CPU_ROW_MULTIPLE) if device.type == "cpu" else (False, 1)
        self.heads = torch.arange(slots * self.kv_heads, device=device)

    def read(self, rows: list[int], ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Put the prompts (b, P), padded anywhere, into the slots after those in use. Returns the last hidden state of
        each, (b, H)."""
        packing = Packing.of(mask, self.few)
        slot, place, size = packing.row_of + len(self.rows), packing.position_ids, len(packing.tokens)
        self._make_room(packing.width)
        indices = PackedBatch(packing).rows_for(self.kv_heads, self.groups)

        def attend(block: Block, index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            self.keys[index][slot, :, place], self.values[index][slot, :, place] = k[:size], v[:size]
            return attend_rows(q, k, v, indices, block.scale, block.window)

        positions = packing.fill(place)
        hidden = self.decoder.hidden_states(packing.take(ids), self.cos[positions], self.sin[positions], attend)
        lengths = mask.sum(dim=1)
        self.rows, self.lengths = self.rows + rows, self.lengths + lengths.tolist()
        return hidden[lengths.cumsum(dim=0) - 1]

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """Add one token to every response, (n,) int64. Returns its hidden state, (n, H)."""
        used = len(self.rows)
        # slots after those in use compute nothing that is read
        count = min(round_up(used, self.row_multiple), self.keys.shape[1])
        self._make_room(max(self.lengths) + 1)
        size, place = self.head_size, torch.tensor(self.lengths + [0] * (count - used), device=ids.device)
        heads = self.heads[: count * self.kv_heads].view(count, -1)
        target = (heads * self.keys.shape[3] + place[:, None]).flatten()
        biases = {window: self._bias(place, window) for window in self.windows}

        def attend(block: Block, index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            bias = biases[block.window]
            keys, values = self.keys[index][:count].flatten(0, 1), self.values[index][:count].flatten(0, 1)
            keys.view(-1, size).index_copy_(0, target, k.reshape(-1, size))
            values.view(-1, size).index_copy_(0, target, v.reshape(-1, size))
            return attend_cached(q.reshape(len(bias), -1, size), keys, values, bias, block.scale).view(count, -1)

        self.lengths = [length + 1 for length in self.lengths]
        return self.decoder.hidden_states(pad(ids, (0, count - used)), self.cos[place], self.sin[place], attend)[:used]

    def _bias(self, place: torch.Tensor, window: int | None) -> torch.Tensor:
        """(n·KV, G, T): 0 where the tokens at `place` (n,) may attend, −inf elsewhere."""
        places = torch.arange(self.keys.shape[3], device=place.device)
        hidden = places > place[:, None]
        if window is not None:
            hidden = hidden | (places <= place[:, None] - window)
        bias = torch.zeros(hidden.shape, dtype=self.keys.dtype, device=place.device).masked_fill(hidden, -torch.inf)
        return bias.repeat_interleave(self.kv_heads, dim=0)[:, None].expand(-1, self.groups, -1).contiguous()

    def _make_room(self, width: int) -> None:
        more = round_up(width, GROWTH) - self.keys.shape[3]
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
