"""Mini-batches (an optimiser step) and micro-batches (what fits in memory) of state–action pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from ppo_lm.types import SAPairs


class ExperienceBuffer:
    """Hands out the sequences of a batch in mini-batches, in an order drawn anew for every pass from one seeded stream."""

    def __init__(self, seed: int):
        self.random = torch.Generator().manual_seed(seed)

    def mini_batches(self, sa_pairs: SAPairs, count: int) -> Iterator[SAPairs]:
        """Yield every sequence once, in `count` mini-batches whose sizes differ by at most one."""
        order = torch.randperm(sa_pairs.sequences, generator=self.random)
        for rows in order.tensor_split(count):
            yield sa_pairs.select(rows.to(sa_pairs.action_ids.device))


def micro_batches(sa_pairs: SAPairs, size: int) -> Iterator[tuple[torch.Tensor, SAPairs]]:
    """Yield (rows, their pairs without needless padding), sequences of similar length together. rows: (≤ size,) int64."""
    order = sa_pairs.attention_mask.sum(dim=1).argsort(stable=True)
    for rows in order.split(size):
        yield rows, trim_padding(sa_pairs.select(rows))


def trim_padding(sa_pairs: SAPairs) -> SAPairs:
    """Drop the columns that are padding in every row, on the left of the prompts and on the right of the responses."""
    actions = sa_pairs.action_ids.shape[1]
    prompt = sa_pairs.attention_mask.shape[1] - actions
    keep_actions = max(int(sa_pairs.lengths.max()), 1)
    first = int(sa_pairs.attention_mask[:, :prompt].sum(dim=1).max())
    columns = slice(prompt - first, prompt + keep_actions)
    changed = {}
    for name in SAPairs.__dataclass_fields__:
        column = getattr(sa_pairs, name)
        if column is not None and column.ndim > 1:
            changed[name] = column[:, columns] if name in ("input_ids", "attention_mask") else column[:, :keep_actions]
    return sa_pairs.with_columns(**changed)


@torch.no_grad()
def compute_in_micro_batches(sa_pairs: SAPairs, size: int, compute: Callable[[SAPairs], torch.Tensor]) -> torch.Tensor:
    """Run `compute` (pairs → (b, a) numbers) over micro-batches, without gradients. Returns (B, A) fp32 in the rows' own order."""
    result = torch.zeros(sa_pairs.action_ids.shape, dtype=torch.float32, device=sa_pairs.action_ids.device)
    for rows, part in micro_batches(sa_pairs, size):
        result[rows, : part.action_ids.shape[1]] = compute(part)
    return result
