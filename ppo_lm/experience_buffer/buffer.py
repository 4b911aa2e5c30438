"""Mini-batches (an optimiser step) and micro-batches (what fits in memory) of state–action pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from ppo_lm.errors import UserError, first_line
from ppo_lm.ops import is_out_of_memory
from ppo_lm.types import SAPairs


class ExperienceBuffer:
    """Hands out the sequences of a batch in mini-batches, in an order drawn anew for every pass from one seeded
    stream."""

    def __init__(self, seed: int):
        self.random = torch.Generator().manual_seed(seed)

    def mini_batches(self, sa_pairs: SAPairs, count: int) -> Iterator[SAPairs]:
        """Yield every sequence once, in `count` mini-batches whose sizes differ by at most one."""
        order = torch.randperm(sa_pairs.sequences, generator=self.random)
        for rows in order.tensor_split(count):
            yield sa_pairs.select(rows.to(sa_pairs.action_ids.device))


class TokenBudget:
    """How many tokens, prompts included, a micro-batch may have. It is halved whenever the memory does not suffice, and
    stays so."""

    def __init__(self, tokens: int):
        self.tokens = tokens

    def halve(self, error: BaseException, longest: int) -> None:
        """Take half; raises `UserError` if a micro-batch of one sequence, of `longest` tokens, was too much."""
        if self.tokens <= longest:
            raise UserError(
                f"out of memory with a single sequence of {longest} tokens ({first_line(error)}); set max_new_tokens "
                "or max_prompt_tokens lower, or take a smaller model"
            ) from error
        self.tokens = max(self.tokens // 2, longest)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def micro_batches(sa_pairs: SAPairs, tokens: int) -> Iterator[tuple[torch.Tensor, SAPairs]]:
    """Yield (rows, their pairs without needless padding): sequences of similar length together, as many as have
    `tokens` tokens among them, at least one. rows: (n,) int64."""
    for rows in split_by_tokens(sa_pairs.attention_mask.sum(dim=1), tokens):
        yield rows, trim_padding(sa_pairs.select(rows))


def split_by_tokens(lengths: torch.Tensor, tokens: int) -> tuple[torch.Tensor, ...]:
    """Sequences of `lengths` (B,) in groups, shortest first: as many as have at most `tokens` tokens among them, at
    least one. Returns their rows, (n,) int64 each."""
    order, sizes, room = lengths.argsort(stable=True), [], 0
    for length in lengths[order].tolist():
        if not sizes or length > room:
            sizes, room = [*sizes, 0], tokens
        sizes[-1] += 1
        room -= length
    return order.split(sizes)


def try_micro_batches(
    sa_pairs: SAPairs,
    budget: TokenBudget,
    work: Callable[[torch.Tensor, SAPairs], None],
    start_over: Callable[[], None],
) -> None:
    """Call `work(rows, part)` on every micro-batch. When memory runs out the budget is halved, `start_over()` called,
    and all of it done anew."""
    while True:
        start_over()
        try:
            for rows, part in micro_batches(sa_pairs, budget.tokens):
                work(rows, part)
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            budget.halve(error, int(sa_pairs.attention_mask.sum(dim=1).max()))


def trim_padding(sa_pairs: SAPairs) -> SAPairs:
    """Drop the columns that are padding in every row, on the left of the prompts and on the right of the responses. A
    column that holds observations alone stays."""
    prompt = sa_pairs.prompt_width
    real = sa_pairs.attention_mask.any(dim=0)
    first, actions = torch.stack([real[:prompt].sum(), real[prompt:].sum().clamp(min=1)]).tolist()
    columns = slice(prompt - first, prompt + actions)
    changed = {}
    for name, column in sa_pairs.columns().items():
        if column.ndim > 1:
            changed[name] = column[:, columns] if name in ("input_ids", "attention_mask") else column[:, :actions]
    return sa_pairs.with_columns(**changed)


@torch.no_grad()
def compute_in_micro_batches(
    sa_pairs: SAPairs, budget: TokenBudget, compute: Callable[[SAPairs], torch.Tensor]
) -> torch.Tensor:
    """Run `compute` over micro-batches, without gradients: pairs → (b, a) numbers, or (b,). Returns (B, A) or (B,)
    fp32, in the rows' own order."""
    found = []

    def work(rows: torch.Tensor, part: SAPairs) -> None:
        found.append((rows, compute(part)))

    try_micro_batches(sa_pairs, budget, work, start_over=found.clear)
    shape = sa_pairs.action_ids.shape[: found[0][1].ndim]
    result = torch.zeros(shape, dtype=torch.float32, device=sa_pairs.action_ids.device)
    for rows, numbers in found:
        result[(rows, slice(numbers.shape[1])) if numbers.ndim == 2 else rows] = numbers
    return result
