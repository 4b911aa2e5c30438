"""Sampling in slots whose memory stays where it is, so that on a GPU a decode step is a single CUDA graph."""

from __future__ import annotations

import sys

import torch

from ppo_lm.base_setup.memory import free_bytes
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.fast.decoder import Decoder
from ppo_lm.fast.kv_cache import KVMemory
from ppo_lm.fast.packing import round_up
from ppo_lm.models import PolicyModel
from ppo_lm.progress import phase
from ppo_lm.rollout.engine import Sampled, SamplingSettings
from ppo_lm.rollout.in_slots import InSlots, Waiting
from ppo_lm.rollout.replay import Replayed
from ppo_lm.rollout.slots import Slots
from ppo_lm.rollout.stop_strings import StopStrings

LEAST_SLOTS = 8  # below which a step is not made smaller
LEAST_WIDTH, WIDTHS = 64, 8  # steps attend to a multiple of 64, and of an eighth of the most, tokens
SHARE = 0.25  # of the free memory of a GPU, for keys and values


class GraphEngine(InSlots):
    """Samples what `SlotEngine` samples. The weights, keys and values, and the state of each response are in memory
    that is kept, so what a step launches can be recorded and replayed (`Replayed`). The host looks at the device every
    few steps, to collect the responses that have ended and start others in their slots.
    """

    def __init__(self, policy: PolicyModel, budget: MemoryBudget | None = None, check_every: int = 8):
        """`check_every`: the number of steps between two looks at which responses have ended; until then they take part
        for nothing."""
        super().__init__(policy, budget)
        self.check_every = check_every
        self._memory: KVMemory | None = None
        self._slots: dict[SamplingSettings, tuple[Slots, Replayed]] = {}

    @property
    def description(self) -> str:
        return "sampled in slots, a step at a time as one CUDA graph"

    def _sample(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        settings: SamplingSettings,
        uniforms: torch.Tensor,
        slots: int,
    ) -> _Rows:
        lengths = prompt_mask.sum(dim=1).tolist()
        state, step = self._prepare(slots, max(lengths) + settings.max_new_tokens, settings)
        count, pad_token_id = min(slots, state.memory.slots), self.policy.base.pad_token_id
        stops = StopStrings(self.policy.base.tokenizer, settings)
        rows = _Rows(state, step, count, prompt_ids, prompt_mask, uniforms, lengths, pad_token_id, stops)
        with phase("sampling", len(prompt_ids), "responses") as progress:
            while rows.waiting or rows.running:
                if rows.waiting.should_start(count - len(rows.running), count):
                    rows.start(self.budget.tokens)
                rows.advance(self.check_every)
                progress.done = len(prompt_ids) - len(rows.waiting) - len(rows.running)
        return rows

    def _prepare(self, count: int, length: int, settings: SamplingSettings) -> tuple[Slots, Replayed]:
        """At least `count` slots, or as many as there is memory for, with the current weights: those of the last call
        if they will do."""
        base, own = self.policy.base, self.policy.base.paths.accelerated
        assert own is not None, "make_graph_engine takes no other network"
        memory = self._memory
        enough = memory is not None and count <= memory.slots <= self.budget.slots and length <= memory.length
        if memory is None or not enough or memory.decoder.trunk is not own.trunk:
            self._memory, self._slots, memory = None, {}, None  # frees the old before the new
            decoder, length = own.decoder(self.policy.role, count), round_up(length, LEAST_WIDTH)
            count = min(count, self.budget.limit_slots(_slots_that_fit(decoder, length)))
            memory = self._memory = KVMemory(decoder, count, length, length)
        else:
            memory.decoder.load()
            memory.clear()
            if self.policy.role is None:  # with an adapter, nothing trains the head
                for slots, _ in self._slots.values():
                    slots.head.load()
        if settings not in self._slots:
            vocabulary = base.network.config.get_text_config().vocab_size
            kept = min(settings.top_k or vocabulary, vocabulary) if settings.truncates(vocabulary) else 0
            slots = Slots(memory, own.head(memory.slots), settings, base.eos_token_ids, kept)
            self._slots[settings] = slots, Replayed(slots.step, base.device)
        return self._slots[settings]


def _slots_that_fit(decoder: Decoder, length: int) -> int:
    if decoder.device.type != "cuda":
        return sys.maxsize
    return int(SHARE * free_bytes(decoder.device)) // (length * decoder.bytes_per_token)


class _Rows:
    """The host's account of one call of `sample`: which response is in which slot, and how far each may be."""

    def __init__(
        self,
        slots: Slots,
        step: Replayed,
        count: int,
        ids: torch.Tensor,
        mask: torch.Tensor,
        uniforms: torch.Tensor,
        lengths: list[int],
        pad_token_id: int,
        stops: StopStrings,
    ):
        """`count`: how many of the slots to use."""
        self.stops = stops
        self.slots, self.step, self.count, self.pad_token_id = slots, step, count, pad_token_id
        self.ids, self.mask, self.uniforms, self.lengths = ids, mask, uniforms, lengths
        self.waiting = Waiting(lengths)
        self.running: dict[int, int] = {}  # slot → row
        self.made = [0] * len(lengths)  # tokens sampled, if none has ended since the last look
        self.looked_at = [0] * len(lengths)  # tokens by which no stop string has ended the response
        self.found = [column.new_zeros(len(lengths), *column.shape[1:]) for column in slots.columns()]

    def start(self, tokens: int) -> None:
        """Let waiting rows begin in free slots, with at most `tokens` tokens of prompts, but at least one row."""
        free = [slot for slot in range(self.count) if slot not in self.running]
        rows = self.waiting.take(len(free), tokens)
        places = free[: len(rows)]
        row = torch.tensor(rows, device=self.ids.device)
        self.slots.start(
            torch.tensor(places, device=self.ids.device), self.ids[row], self.mask[row], self.uniforms[row]
        )
        self.running |= dict(zip(places, rows))
        for r in rows:
            self.made[r] = 1
        self._collect()

    def advance(self, steps: int) -> None:
        """At most `steps` steps, and a look at which responses have ended."""
        if not self.running:
            return
        most = self.slots.settings.max_new_tokens
        steps = min(steps, most - min(self.made[row] for row in self.running.values()))
        count, seen = self._fewest_slots(), None
        for place in range(steps):
            if place > 0 and place == steps - 1 and not self.stops:
                seen = self._look()  # the device computes one more step while the host thinks about what it sees
            self.step(count, self._width(count))
            for row in self.running.values():
                self.made[row] = min(self.made[row] + 1, most)
        self._collect(seen)

    def _width(self, count: int) -> int:
        """More than the number of tokens in any running slot, one of a few numbers; one alone where steps of `count`
        slots do not use it."""
        most = self.slots.memory.width
        if self.slots.memory.find_kernels(count):
            return most
        longest = max(self.lengths[row] + self.made[row] for row in self.running.values())
        return min(round_up(longest, round_up(-(-most // WIDTHS), LEAST_WIDTH)), most)

    def _fewest_slots(self) -> int:
        """How many slots a step needs. With none waiting, responses move from the last slots to free ones as soon as
        half as many do."""
        count = self.count
        if self.waiting:
            return count
        while count > LEAST_SLOTS and len(self.running) <= (count + 1) // 2:
            count = (count + 1) // 2
        free = iter([slot for slot in range(count) if slot not in self.running])
        for slot in sorted(slot for slot in self.running if slot >= count):
            row, target = self.running.pop(slot), next(free)
            self.slots.move(slot, target, self.lengths[row] + self.made[row] - 1)
            self.running[target] = row
        return count

    def _look(self) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        """Which slots are running, and the tokens in each, (2, slots) int64: as soon as the device gets there."""
        state = torch.stack([self.slots.running.long(), self.slots.made])
        if not state.is_cuda:
            return state, None
        there = torch.cuda.Event()
        state = state.to("cpu", non_blocking=True)
        there.record()
        return state, there

    def _collect(self, seen: tuple[torch.Tensor, torch.cuda.Event | None] | None = None) -> None:
        """Wait for the device, and take the responses that had ended, when it was `seen` or now, out of their slots."""
        state, there = self._look() if seen is None else seen
        if there is not None:
            there.synchronize()
        running, made = state.tolist()
        ended = [slot for slot in self.running if not running[slot]]
        if self.stops:
            ended += self._stop([slot for slot in self.running if running[slot]], made)
        if not ended:
            return
        rows = [self.running.pop(slot) for slot in ended]
        for slot, row in zip(ended, rows):
            self.made[row] = made[slot]
        slot, row = torch.tensor([ended, rows], device=self.ids.device)
        for column, found in zip(self.slots.columns(), self.found):
            found[row] = column[slot]

    def _stop(self, slots: list[int], made: list[int]) -> list[int]:
        """Stop the responses in those of `slots` that a stop string has ended, and return them. `made`: the number of
        tokens in each slot of all."""
        found, ids = [], self.slots.ids.tolist()
        for slot in slots:
            row = self.running[slot]
            if self.stops.find(ids[slot][: made[slot]], self.looked_at[row]):
                found.append(slot)
            self.looked_at[row] = made[slot]
        if found:
            self.slots.running[torch.tensor(found, device=self.ids.device)] = False
        return found

    def sampled(self) -> Sampled:
        """See `Responses.sampled`."""
        width = max(self.made)
        places = torch.arange(width, device=self.ids.device)
        past = places >= torch.tensor(self.made, device=self.ids.device)[:, None]
        ids, logprobs, entropies, *support = (column[:, :width] for column in self.found)
        return Sampled(
            ids.masked_fill(past, self.pad_token_id),
            logprobs.masked_fill(past, 0.0),
            entropies.masked_fill(past, 0.0),
            support[0].masked_fill(past[:, :, None], -1) if support else None,
        )
