"""The hand-offs between the rooms of the package."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch

ADDED_BY = {
    "sampler_logprobs": "SequenceGenerator.generate_sequences",
    "entropies": "SequenceGenerator.generate_sequences",
    "ref_logprobs": "SequenceGenerator.generate_sequences",
    "scores": "RewardComputer.compute_rewards",
    "kl": "KLDivergence.add_kl_to_sa_pairs",
    "rewards": "RewardAdjuster.adjust_rewards_with_kl",
    "values": "ValueAdder.add_values_to_sa_pairs",
    "td_errors": "TDError.compute_td_errors",
    "advantages": "GAEAdvantage.compute_gae_advantages",
    "reward_to_go": "ReturnCalculator.add_reward_to_go",
    "returns": "ReturnCalculator.add_returns",
}


class Pair(NamedTuple):
    """One state–action pair, for people and tests: `state` is the real tokens before the action, prompt included."""

    state: list[int]
    action: int
    numbers: dict[str, float]


@dataclass(frozen=True, slots=True)
class SAPairs:
    """A batch of state–action pairs: a row a sequence, a column a response token.

    A pair is one sampled token and the prefix before it. With B sequences, P prompt columns (left-padded) and A
    response columns (right-padded), `input_ids[:, P:] == action_ids`. `action_mask` is the one mask: True on every
    sampled token, EOS included. Numbers are fp32 whatever the model's dtype (fp64 is accepted, for tests). A column
    that no step has added yet is None.

    Example (B=2, P=3, A=3; row 0 ended with EOS=2, row 1 ran into the length limit)::

        input_ids      [[0, 5, 6, 8, 2, 0], [5, 6, 7, 8, 9, 4]]
        attention_mask [[0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]
        action_ids     [[8, 2, 0], [8, 9, 4]]
        action_mask    [[1, 1, 0], [1, 1, 1]]
        terminated     [True, False]
        scores         [0.7, -1.0]
        rewards        [[-0.01, 0.72, 0.0], [0.0, 0.02, -1.01]]
    """

    input_ids: torch.Tensor  # (B, P+A) int64: the prompt and the response
    attention_mask: torch.Tensor  # (B, P+A) bool: True on real tokens
    action_ids: torch.Tensor  # (B, A) int64: the sampled tokens
    action_mask: torch.Tensor  # (B, A) bool: True on sampled tokens
    old_logprobs: torch.Tensor  # (B, A) nats, under the sampling distribution; 0 where masked
    terminated: torch.Tensor  # (B,) bool: the response ended with EOS
    support_ids: torch.Tensor | None = (
        None  # (B, A, K) int64: the tokens top-k/top-p left to choose from, -1 = none; None: all
    )
    sampler_logprobs: torch.Tensor | None = (
        None  # (B, A) nats, as computed while sampling; `old_logprobs` may be the training path's instead
    )
    entropies: torch.Tensor | None = None  # (B, A) nats, of the distribution that each action was sampled from
    ref_logprobs: torch.Tensor | None = None  # (B, A) nats, of the frozen reference on the same support; 0 where masked
    scores: torch.Tensor | None = None  # (B,): what the reward model or function gave the sequence
    kl: torch.Tensor | None = None  # (B, A) nats
    rewards: torch.Tensor | None = None  # (B, A): KL-adjusted, the score on the last action
    values: torch.Tensor | None = None  # (B, A): of the state before the action
    td_errors: torch.Tensor | None = None  # (B, A)
    advantages: torch.Tensor | None = None  # (B, A)
    reward_to_go: torch.Tensor | None = None  # (B, A): discounted sum of the rewards from here on
    returns: torch.Tensor | None = None  # (B, A): advantages + values, the λ-return

    def __post_init__(self):
        rows, actions = self.action_ids.shape
        for field in dataclasses.fields(self):
            column = getattr(self, field.name)
            if column is not None:
                self._check(field.name, column, rows, actions)

    def _check(self, name: str, column: torch.Tensor, rows: int, actions: int) -> None:
        if name in ("input_ids", "attention_mask"):
            good = column.ndim == 2 and column.shape[0] == rows and column.shape[1] >= actions
            shape = f"({rows}, at least {actions})"
        elif name == "support_ids":
            good, shape = column.ndim == 3 and column.shape[:2] == (rows, actions), f"({rows}, {actions}, K)"
        else:
            expected = (rows,) if name in ("terminated", "scores") else (rows, actions)
            good, shape = tuple(column.shape) == expected, str(expected)
        if not good:
            raise ValueError(
                f"SAPairs.{name} has shape {tuple(column.shape)}; with {rows} sequences of {actions} actions it needs "
                f"{shape}"
            )
        if name in ("input_ids", "action_ids", "support_ids"):
            dtypes = (torch.int64,)
        elif name in ("attention_mask", "action_mask", "terminated"):
            dtypes = (torch.bool,)
        else:
            dtypes = (torch.float32, torch.float64)
        if column.dtype not in dtypes:
            raise ValueError(f"SAPairs.{name} is {column.dtype}; it needs {' or '.join(map(str, dtypes))}")
        if column.device != self.action_ids.device:
            raise ValueError(
                f"SAPairs.{name} is on {column.device}, but action_ids is on {self.action_ids.device}; move it there"
            )

    def __len__(self) -> int:
        """The number of state–action pairs (sampled tokens)."""
        return int(self.action_mask.sum())

    @property
    def sequences(self) -> int:
        """The number of sequences B."""
        return self.action_ids.shape[0]

    @property
    def lengths(self) -> torch.Tensor:
        """The number of sampled tokens of each sequence, (B,) int64."""
        return self.action_mask.sum(dim=1)

    def require(self, name: str) -> torch.Tensor:
        """The column called `name`; if no step has added it yet, an error that says which one does."""
        column = getattr(self, name)
        if column is None:
            raise ValueError(f"SAPairs has no {name!r} yet: {ADDED_BY[name]} adds it; call that first")
        return column

    def with_columns(self, **columns: torch.Tensor) -> SAPairs:
        """A copy with these columns set; shapes, dtypes and devices are checked."""
        return dataclasses.replace(self, **columns)

    def columns(self) -> dict[str, torch.Tensor]:
        """The columns that are set, by name."""
        return {
            field.name: column
            for field in dataclasses.fields(self)
            if (column := getattr(self, field.name)) is not None
        }

    def select(self, rows: torch.Tensor) -> SAPairs:
        """The sequences at `rows`, an int64 index tensor, in that order."""
        return SAPairs(**{name: column[rows] for name, column in self.columns().items()})

    def pair(self, row: int, step: int) -> Pair:
        """The pair of sequence `row` at response token `step`, copied out for reading."""
        if not self.action_mask[row, step]:
            raise IndexError(f"sequence {row} has {int(self.lengths[row])} actions; there is none at {step}")
        prompt_width = self.input_ids.shape[1] - self.action_ids.shape[1]
        before = slice(0, prompt_width + step)
        state = self.input_ids[row, before][self.attention_mask[row, before]].tolist()
        names = ("old_logprobs", *[name for name in ADDED_BY if name != "scores"])
        numbers = {name: float(getattr(self, name)[row, step]) for name in names if getattr(self, name) is not None}
        return Pair(state, int(self.action_ids[row, step]), numbers)
