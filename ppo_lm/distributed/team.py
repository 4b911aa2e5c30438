"""Several processes with one batch."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ppo_lm.distributed.current import by_itself, processes, work_with
from ppo_lm.distributed.outcome import pack, pack_error, unpack
from ppo_lm.distributed.processes import Processes
from ppo_lm.distributed.sharing import Share, share_jobs
from ppo_lm.distributed.watch import Watch
from ppo_lm.errors import ProcessLost, first_line

Item = TypeVar("Item")
Result = TypeVar("Result")


class Team(Processes):
    """The processes of torch's default group; see `Processes`."""

    watch: Watch | None = None

    def start_watch(self, host: str) -> None:
        """Have it noticed when one of them dies. `host`: that of the first process."""
        if self.place.is_first:
            self.watch, *where = Watch.first(self.size)
            self.once(lambda: where)
        else:
            speaks = self.place.local_rank == 0
            self.watch = Watch.other(self.place.rank, self.size, speaks, host, *self.once(list))

    def end_watch(self) -> None:
        """Nobody is missed from now on, whoever ends."""
        if self.watch is not None:
            self.watch.dismiss()

    @property
    def size(self) -> int:
        return self.place.size

    def share_jobs(self, jobs: Sequence[torch.Tensor | Sequence[int]]) -> list[Share]:
        tokens = [lengths.tolist() if isinstance(lengths, torch.Tensor) else lengths for lengths in jobs]
        return share_jobs(tokens, self.place.size, self.place.rank)

    def gather_rows(self, share: Share, numbers: torch.Tensor, fill: float = 0) -> torch.Tensor:
        most = max(max(len(rows) for rows in share.all_rows), 1)
        sizes = torch.tensor(numbers.shape[1:], dtype=torch.int64)
        with self._talking():
            dist.all_reduce(sizes, dist.ReduceOp.MAX)
            shape = (most, *sizes.tolist())
            own = numbers.new_full(shape, fill)
            own[tuple(map(slice, numbers.shape))] = numbers
            gathered = [torch.empty_like(own) for _ in range(self.size)]
            dist.all_gather(gathered, own)
        whole = own.new_empty((sum(map(len, share.all_rows)), *shape[1:]))
        for rows, found in zip(share.all_rows, gathered):
            whole[list(rows)] = found[: len(rows)]
        return whole

    def gather_items(self, share: Share, items: Sequence[Item]) -> list[Item]:
        gathered = self.of_each(list(items))
        found = {row: item for rows, own in zip(share.all_rows, gathered) for row, item in zip(rows, own)}
        return [found[row] for row in sorted(found)]

    def of_each(self, item: Item) -> list[Item]:
        gathered: list[Any] = [None] * self.size
        with self._talking():
            dist.all_gather_object(gathered, item)
        return gathered

    @torch.no_grad()
    def add_up(self, tensors: Iterable[torch.Tensor]) -> None:
        alike: dict[torch.dtype, list[torch.Tensor]] = {}
        for tensor in tensors:
            alike.setdefault(tensor.dtype, []).append(tensor)
        for some in alike.values():  # one message for each dtype
            flat = torch.cat([tensor.flatten() for tensor in some])
            with self._talking():
                dist.all_reduce(flat)
            for tensor, part in zip(some, flat.split([tensor.numel() for tensor in some])):
                tensor.copy_(part.view_as(tensor))

    def add_up_gradients(self, parameters: Iterable[torch.Tensor], others: Iterable[torch.Tensor] = ()) -> None:
        weights = list(parameters)
        if not weights:  # all are sharded
            return self.add_up(others)
        holders = weights[0].new_tensor([weight.grad is not None for weight in weights])  # how many processes have it
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        self.add_up([holders, *(weight.grad for weight in weights if weight.grad is not None), *others])
        for weight, number in zip(weights, holders.tolist()):
            if not number:
                weight.grad = None

    def once(self, make: Callable[[], Result]) -> Result:
        if not self.place.is_first:
            return unpack(self._broadcast(None, source=0))
        try:
            with by_itself():
                made = make()
            packed = pack(made)
        except Exception as error:
            self._broadcast(pack_error(error), source=0)
            raise
        self._broadcast(packed, source=0)
        return made

    def together(self, work: Callable[[], Result], in_step: bool = False) -> Result:
        if in_step:
            return self._in_step(work)
        result, problem = None, None
        try:
            with by_itself():
                result = work()
        except Exception as error:
            problem = error
        worst = self.highest(0 if problem is None else self.size - self.place.rank)
        if worst == 0:
            return result  # pyright: ignore[reportReturnType]  (it is what `work` returned)
        source = self.size - worst  # the first of those that have a problem
        packed = self._broadcast(None if problem is None else pack_error(problem), source)
        if problem is not None and source == self.place.rank:
            raise problem
        return unpack(packed)

    def highest(self, number: int) -> int:
        found = torch.tensor([number])
        with self._talking():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def seed_dropout(self, seed: int, step: int) -> None:
        torch.manual_seed((seed * 1_000_003 + step) * 4096 + self.place.rank)

    def _in_step(self, work: Callable[[], Result]) -> Result:
        try:
            return work()
        except Exception as error:
            if processes() is not self:  # `work` has found that already
                raise
            if isinstance(error, dist.DistBackendError) or "gloo" in str(error):
                raise self._lost(error) from error
            work_with(Processes(self.place))  # the others may be waiting in the middle of a pass
            if self.place.local_rank:  # whose own messages are not shown
                print(f"error in process {self.place.rank}: {error}", file=sys.__stderr__, flush=True)
            raise

    def _broadcast(self, packed: bytes | None, source: int) -> bytes:
        found = [packed]
        with self._talking():
            dist.broadcast_object_list(found, src=source)
        assert found[0] is not None, "the source has something to say"
        return found[0]

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Raise `ProcessLost`, and work alone from then on, if another process cannot be reached."""
        try:
            yield
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> ProcessLost:
        """Work alone from now on, without another process that cannot be reached."""
        if self.watch is not None:
            self.watch.dismiss(goodbye=False)
        work_with(Processes(self.place))
        return ProcessLost(f"another of the {self.size} processes ended or cannot be reached ({_reason(error)})")


def _reason(error: Exception) -> str:
    """The sentence in a message of gloo's, without the place in its source and its advice."""
    return re.sub(r"^\[[^]]*\] ", "", first_line(error)).split(". ")[0]
