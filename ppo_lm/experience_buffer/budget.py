"""How much fits in memory at once, learnt once per run."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from ppo_lm.distributed import processes
from ppo_lm.errors import UserError, first_line
from ppo_lm.ops import is_out_of_memory

Result = TypeVar("Result")


class MemoryBudget:
    """What fits in memory: `tokens` in a micro-batch while scoring and training, prompts included, and `slots`, the
    number of responses sampled at once.

    Either is halved when memory runs out, in all processes of a run, and stays halved. One object is shared by the
    whole run, so that what one part learns holds for all others. `say` is called with one line whenever a limit is
    halved, or a server that samples is lost. `in_step`: the processes pass through the network at the same time,
    because its weights are sharded, and cannot agree on anything in the middle of a pass; so nothing is halved, and
    running out of memory is an error.
    """

    def __init__(
        self, tokens: int = 1024, slots: int = 64, say: Callable[[str], None] | None = None, in_step: bool = False
    ):
        self.tokens, self.slots, self.say, self.in_step = tokens, slots, say, in_step

    @contextmanager
    def telling(self, say: Callable[[str], None]) -> Iterator[None]:
        """Inside the block, `say` is called with each line that `tell` gets."""
        before, self.say = self.say, say
        try:
            yield
        finally:
            self.say = before

    def fit_tokens(self, lengths: Sequence[torch.Tensor], attempt: Callable[[int], Result]) -> Result:
        """Call `attempt(tokens)`, halving the tokens and retrying whenever memory runs out. `lengths`: of each batch
        that is passed, (B,), the tokens in each sequence. Raises `UserError` if a micro-batch of one sequence does not
        fit."""

        if self.in_step:
            return _fit_in_step("micro_batch_tokens", self.tokens, attempt)

        def halve(error: Exception) -> None:
            sizes = [batch.tolist() for batch in lengths]  # lists, as there may be no memory for tensors
            longest, total = (processes().highest(max(map(measure, sizes))) for measure in (max, sum))
            used = min(self.tokens, total)
            if used <= longest:
                raise UserError(
                    f"out of memory with a single sequence of {longest} tokens ({first_line(error)}); lower "
                    "max_new_tokens or max_prompt_tokens, or use a smaller model"
                ) from error
            self.tokens = max(used // 2, longest)
            self.tell(f"out of memory with {used} tokens in a micro-batch; at most {self.tokens} from now on")

        return _until_it_fits(lambda: attempt(self.tokens), halve)

    def fit_slots(self, rows: int, attempt: Callable[[int], Result]) -> Result:
        """Call `attempt(slots)` with at most `rows` slots, halving them and retrying whenever memory runs out. Raises
        `UserError` if one response at a time does not fit."""

        if self.in_step:
            return _fit_in_step("rollout_slots", self.slots, attempt)

        def halve(error: Exception) -> None:
            used = min(self.slots, rows)
            if used == 1:
                raise UserError(
                    f"out of memory while sampling one response at a time ({first_line(error)}); lower max_new_tokens, "
                    "or use a smaller model"
                ) from error
            self.slots = used // 2
            self.tell(f"out of memory while sampling {used} responses at once; at most {self.slots} from now on")

        return _until_it_fits(lambda: attempt(min(self.slots, rows)), halve)

    def limit_slots(self, most: int) -> int:
        """Sample at most `most` responses at once from now on, at least one. Returns how many."""
        self.slots = max(min(self.slots, most), 1)
        return self.slots

    def agree_on_slots(self) -> None:
        """Sample no more responses at once than the process that can sample the fewest."""
        team = processes()
        first, self.slots = team.once(lambda: self.slots), -team.highest(-self.slots)
        if self.slots < first:
            self.tell(f"another process can sample only {self.slots} responses at once, so all do from now on")

    def state_dict(self) -> dict[str, int]:
        """The limits learnt so far. With them, a resumed run splits its batches, and therefore rounds, as it would have
        done without the interruption."""
        return {"tokens": self.tokens, "slots": self.slots}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from what `state_dict` returned."""
        self.tokens, self.slots = state["tokens"], state["slots"]

    def tell(self, line: str) -> None:
        """Pass on a line about what is sampled or trained at once, if anybody listens."""
        if self.say is not None:
            self.say(line)


def _until_it_fits(attempt: Callable[[], Result], halve: Callable[[Exception], None]) -> Result:
    """Return what `attempt` returns; whenever memory runs out, in any process, call `halve` with the error and try
    again."""
    while True:
        try:
            return processes().together(attempt)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            halve(error)
        # Only out here is the error gone, and with it the traceback frames that keep the attempt's tensors alive.
        _release_cached_memory()


def _fit_in_step(setting: str, limit: int, attempt: Callable[[int], Result]) -> Result:
    """Return what `attempt(limit)` returns. Raises `UserError` if memory runs out in this process."""

    def work() -> Result:
        try:
            return attempt(limit)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"out of memory with {setting} {limit} ({first_line(error)}); set it lower, as processes with "
                "shard_base cannot agree on that in the middle of a pass"
            ) from error

    return processes().together(work, in_step=True)


def _release_cached_memory() -> None:
    """Return the memory of freed tensors, including those in reference cycles, from torch's cache to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
