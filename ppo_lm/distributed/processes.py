"""What processes that train together have to do with each other.

Every process holds the whole batch of pairs, so that KL, advantages, whitening, metrics, controllers and schedules are
computed everywhere alike, without a word. Only the costly work is split: sampling, scoring, and the gradients of a
mini-batch. The few operations here are all that this takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from ppo_lm.distributed.place import ALONE, Place
from ppo_lm.distributed.sharing import Share

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Processes:
    """A process by itself: it does all rows, and nobody has to be asked. `Team` is several.

    Every operation has to be called by all processes, in the same order; but not within the functions given to `once`
    and `together`, where a process is by itself, unless they are `in_step`.
    """

    def __init__(self, place: Place = ALONE):
        self.place = place

    @property
    def size(self) -> int:
        """How many work together."""
        return 1

    def share(self, lengths: torch.Tensor | Sequence[int]) -> Share:
        """Deal out rows of `lengths` (B,) tokens, so that all have about the same number of tokens."""
        return self.share_jobs([lengths])[0]

    def share_jobs(self, jobs: Sequence[torch.Tensor | Sequence[int]]) -> list[Share]:
        """Deal out the rows of several jobs, such as the passes of two models, each by the tokens (B,) of its rows: a
        process has rows of as few jobs as possible."""
        return [Share((tuple(range(len(lengths))),), 0) for lengths in jobs]

    def gather_rows(self, share: Share, numbers: torch.Tensor, fill: float = 0) -> torch.Tensor:
        """The rows of all processes, in their order in the batch. `numbers` (b, …): those of this process's share. In
        other dimensions, whose sizes may differ between processes, `fill` is added at the end."""
        return numbers

    def gather_items(self, share: Share, items: Sequence[Item]) -> list[Item]:
        """Like `gather_rows`, for any items that can be pickled."""
        return list(items)

    def of_each(self, item: Item) -> list[Item]:
        """What each process gives, by rank; anything that can be pickled."""
        return [item]

    def add_up(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in place; all have the same shapes everywhere."""

    def add_up_gradients(self, parameters: Iterable[torch.Tensor], others: Iterable[torch.Tensor] = ()) -> None:
        """`add_up` of the gradients of weights that are not sharded, and of `others` with them. A gradient that only
        some processes have is 0 in the rest."""

    def once(self, make: Callable[[], Result]) -> Result:
        """What the first process makes of it, or the error that it raises, in all processes."""
        return make()

    def together(self, work: Callable[[], Result], in_step: bool = False) -> Result:
        """What `work` returns in this process; if it raises in any, it raises in all. `in_step`: the processes talk to
        each other in it, as passes through sharded weights do; then the others cannot be told of an error: they lose
        this process, which is by itself from then on."""
        return work()

    def highest(self, number: int) -> int:
        """The highest of the processes' numbers."""
        return number

    def end_watch(self) -> None:
        """Nobody is missed from now on, whoever ends."""

    def seed_dropout(self, seed: int, step: int) -> None:
        """Give dropout in step `step` random numbers of this process's own. Alone, it uses torch's stream as it is."""
