"""Mini-batches (an optimiser step) and micro-batches (what fits in memory) of state–action pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from ppo_lm.distributed import Share, as_often, processes
from ppo_lm.experience_buffer.budget import MemoryBudget
from ppo_lm.progress import phase
from ppo_lm.types import SAPairs


class ExperienceBuffer:
    """Splits a batch into mini-batches of sequences, reshuffled for every pass from one seeded stream."""

    def __init__(self, seed: int):
        self.random = torch.Generator().manual_seed(seed)

    def mini_batches(self, sa_pairs: SAPairs, count: int) -> Iterator[SAPairs]:
        """Yield every sequence once, in `count` mini-batches whose sizes differ by at most one."""
        order = torch.randperm(sa_pairs.sequences, generator=self.random)
        for rows in order.tensor_split(count):
            yield sa_pairs.select(rows.to(sa_pairs.action_ids.device))


class MicroBatch(NamedTuple):
    """Some rows of a batch, (n,) int64, and their pairs without excess padding. `place`: that of the batch in the list.
    `counts`: whether it is not a repetition; see `as_often`."""

    place: int
    rows: torch.Tensor
    pairs: SAPairs
    counts: bool


def micro_batches(batches: Sequence[SAPairs], tokens: int) -> Iterator[MicroBatch]:
    """Those of each batch in turn: sequences of similar length together, as many as fit into `tokens` tokens, at least
    one."""
    for place, batch in enumerate(batches):
        for (rows, real), counts in as_often(list(_groups(batch, tokens))):
            yield MicroBatch(place, rows, _keep_columns(batch.select(rows), *real), counts)


def _groups(sa_pairs: SAPairs, tokens: int) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """The rows of each micro-batch, and how many columns of its prompts and responses are not padding."""
    groups = split_by_tokens(sa_pairs.attention_mask.sum(dim=1), tokens)
    columns = [_real_columns(sa_pairs.attention_mask[rows], sa_pairs.prompt_width) for rows in groups]
    return zip(groups, torch.stack(columns).tolist())  # a GPU is waited for once


def split_by_tokens(lengths: torch.Tensor, tokens: int) -> tuple[torch.Tensor, ...]:
    """Sequences of `lengths` (B,) in groups, shortest first: as many as fit into `tokens` tokens, at least one. Returns
    their rows, (n,) int64 each."""
    order, sizes, room = lengths.argsort(stable=True), [], 0
    for length in lengths[order].tolist():
        if not sizes or length > room:
            sizes, room = [*sizes, 0], tokens
        sizes[-1] += 1
        room -= length
    return order.split(sizes)


def try_micro_batches(
    batches: Sequence[SAPairs],
    budget: MemoryBudget,
    work: Callable[[MicroBatch], None],
    start_over: Callable[[], None],
) -> None:
    """Call `start_over()`, then `work` on every micro-batch; when memory runs out, start again with smaller ones."""

    def attempt(tokens: int) -> None:
        start_over()
        with phase("micro-batches", sum(batch.sequences for batch in batches), "sequences") as progress:
            for micro in micro_batches(batches, tokens):
                work(micro)
                progress.done += len(micro.rows) * micro.counts

    budget.fit_tokens([batch.attention_mask.sum(dim=1) for batch in batches], attempt)


class OwnPairs(NamedTuple):
    """This process's share of a batch, and its pairs. `place`: that of the batch in the list."""

    place: int
    share: Share
    pairs: SAPairs


def own_pairs(batches: Sequence[SAPairs], in_step: bool = False) -> list[OwnPairs]:
    """This process's share of batches that are passed through different models: about as many tokens as every other's,
    of as few batches as possible, but of at least one. `in_step`: the processes have to pass through the same model at
    the same time, so that each has a share of every batch."""
    lengths, team = [batch.attention_mask.sum(dim=1) for batch in batches], processes()
    shares = [team.share(tokens) for tokens in lengths] if in_step else team.share_jobs(lengths)
    places = [place for place, share in enumerate(shares) if share.counts or in_step] or [0]
    return [OwnPairs(place, shares[place], _rows_of(batches[place], shares[place])) for place in places]


def _rows_of(sa_pairs: SAPairs, share: Share) -> SAPairs:
    if share.is_whole:
        return sa_pairs
    return sa_pairs.select(torch.tensor(share.own, device=sa_pairs.action_ids.device))


def trim_padding(sa_pairs: SAPairs) -> SAPairs:
    """Drop the columns that are padding in every row, on the left of the prompts and on the right of the responses. A
    column that holds only observations stays."""
    return _keep_columns(sa_pairs, *_real_columns(sa_pairs.attention_mask, sa_pairs.prompt_width).tolist())


def _real_columns(attention_mask: torch.Tensor, prompt_width: int) -> torch.Tensor:
    """(2,) int64: how many columns of the prompts, and of the responses (at least one), are not padding in every
    row."""
    real = attention_mask.any(dim=0)
    return torch.stack([real[:prompt_width].sum(), real[prompt_width:].sum().clamp(min=1)])


def _keep_columns(sa_pairs: SAPairs, prompt: int, actions: int) -> SAPairs:
    """The last columns of the prompts, and the first ones of the responses."""
    columns = slice(sa_pairs.prompt_width - prompt, sa_pairs.prompt_width + actions)
    changed = {}
    for name, column in sa_pairs.columns().items():
        if column.ndim > 1:
            changed[name] = column[:, columns] if name in ("input_ids", "attention_mask") else column[:, :actions]
    return sa_pairs.with_columns(**changed)


@torch.no_grad()
def compute_in_micro_batches(
    sa_pairs: SAPairs, budget: MemoryBudget, compute: Callable[[SAPairs], torch.Tensor]
) -> torch.Tensor:
    """Run `compute` over micro-batches, without gradients: pairs → (b,) numbers, (b, a), or several of these as (n, b,
    a). Returns (B,), (B, A) or (n, B, A) fp32, in the original row order."""
    return collect_from_micro_batches(sa_pairs, budget, lambda part, _: compute(part))


def collect_from_micro_batches(
    sa_pairs: SAPairs,
    budget: MemoryBudget,
    compute: Callable[[SAPairs, bool], torch.Tensor],
    start_over: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Like `compute_in_micro_batches`, but with gradients on, for a `compute` that also does something else, such as a
    backward pass, and returns detached numbers. It is told whether its pairs count, or only repeat others (see
    `as_often`). When memory runs out, `start_over()` is called, then `compute` on smaller micro-batches."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def work(micro: MicroBatch) -> None:
        found.append((micro.rows, compute(micro.pairs, share.counts and micro.counts)))

    def clear() -> None:
        found.clear()
        if start_over is not None:
            start_over()

    [(_, share, own)] = own_pairs([sa_pairs])
    try_micro_batches([own], budget, work, clear)
    first = found[0][1]
    shape = (*first.shape[:-2], *own.action_ids.shape[: first.ndim])
    result = torch.zeros(shape, dtype=torch.float32, device=own.action_ids.device)
    for rows, numbers in found:
        place = rows if numbers.ndim == 1 else (..., rows, slice(numbers.shape[-1]))
        result[place] = numbers
    sequences = max(result.ndim - 2, 0)  # the dimension of
    return processes().gather_rows(share, result.movedim(sequences, 0)).movedim(0, sequences)
