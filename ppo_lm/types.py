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
    "advantages": "the estimator's add_advantages",
    "reward_to_go": "ReturnCalculator.add_reward_to_go",
    "returns": "ReturnCalculator.add_returns",
}


class Pair(NamedTuple):
    """One state–action pair, for people and tests: `state` is every real token before the action, prompt and
    observations included."""

    state: list[int]
    action: int
    numbers: dict[str, float]


@dataclass(frozen=True, slots=True)
class SAPairs:
    """A batch of state–action pairs: one row per sequence, one column per response token.

    A pair is one sampled token and the prefix before it. With B sequences, P prompt columns (left-padded) and A
    response columns (right-padded), `input_ids[:, P:] == action_ids`. Numbers are fp32 whatever the model's dtype (fp64
    is accepted, for tests). A column that no step has added yet is None.

    Two masks say what a token is. `attention_mask` is True on real tokens: they are attended to and have positions.
    `action_mask` is True on the tokens that the policy sampled, EOS included: only they have a log-probability, a KL, a
    reward, a value, an advantage and a loss. A response may have holes, real tokens that were not sampled: the words
    of an environment, a tool's answer. "Next", "last" and "length" always mean sampled tokens.

    Example (B=2, P=3, A=3; row 0 ended with EOS=2, row 1 ran into the length limit)::

        input_ids      [[0, 5, 6, 8, 2, 0], [5, 6, 7, 8, 9, 4]]
        attention_mask [[0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]
        action_ids     [[8, 2, 0], [8, 9, 4]]
        action_mask    [[1, 1, 0], [1, 1, 1]]
        terminated     [True, False]
        scores         [0.7, -1.0]
        rewards        [[-0.01, 0.72, 0.0], [0.0, 0.02, -1.01]]

    Example with a hole (B=1, P=2, A=5; the policy said 8 2, an environment answered 6 7, the policy said 2)::

        input_ids      [[5, 6, 8, 2, 6, 7, 2]]
        attention_mask [[1, 1, 1, 1, 1, 1, 1]]
        action_ids     [[8, 2, 6, 7, 2]]
        action_mask    [[1, 1, 0, 0, 1]]
        terminated     [True]
        scores         [0.7]
        rewards        [[-0.01, 0.02, 0.0, 0.0, 0.71]]
    """

    input_ids: torch.Tensor  # (B, P+A) int64: the prompt and the response
    attention_mask: torch.Tensor  # (B, P+A) bool: True on real tokens
    action_ids: torch.Tensor  # (B, A) int64: the response, its observations included
    action_mask: torch.Tensor  # (B, A) bool: True on sampled tokens
    old_logprobs: torch.Tensor  # (B, A) nats, under the sampling distribution; 0 where masked
    terminated: torch.Tensor  # (B,) bool: the response ended with EOS or a stop string
    support_ids: torch.Tensor | None = None  # (B, A, K) int64: the choices that top-k/top-p left, -1 = none; None: all
    excluded_ids: torch.Tensor | None = None  # (B, A, E) int64: or else those that could not be sampled, -1 = none
    stopped: torch.Tensor | None = (
        None  # (B,) bool: a stop string, which its text lacks, ended it; None: there are none
    )
    sampler_logprobs: torch.Tensor | None = None  # (B, A) nats, from sampling; `old_logprobs` may be recomputed instead
    entropies: torch.Tensor | None = None  # (B, A) nats, of the distribution that each action was sampled from
    ref_logprobs: torch.Tensor | None = None  # (B, A) nats, of the frozen reference on the same support; 0 where masked
    scores: torch.Tensor | None = None  # (B,): what the reward model or function gave the sequence
    kl: torch.Tensor | None = None  # (B, A) nats
    rewards: torch.Tensor | None = None  # (B, A): KL-adjusted, the score on the last sampled token
    values: torch.Tensor | None = None  # (B, A): of the state before the action
    td_errors: torch.Tensor | None = None  # (B, A)
    advantages: torch.Tensor | None = None  # (B, A)
    reward_to_go: torch.Tensor | None = None  # (B, A): discounted sum of the rewards from here on
    returns: torch.Tensor | None = None  # (B, A): advantages + values, the λ-return

    def __post_init__(self) -> None:
        rows, actions = self.action_ids.shape
        for field in dataclasses.fields(self):
            column = getattr(self, field.name)
            if column is not None:
                self._check(field.name, column, rows, actions)

    def _check(self, name: str, column: torch.Tensor, rows: int, actions: int) -> None:
        if name in ("input_ids", "attention_mask"):
            good = column.ndim == 2 and column.shape[0] == rows and column.shape[1] >= actions
            shape = f"({rows}, at least {actions})"
        elif name in ("support_ids", "excluded_ids"):
            good, shape = column.ndim == 3 and column.shape[:2] == (rows, actions), f"({rows}, {actions}, K)"
        else:
            expected = (rows,) if name in ("terminated", "stopped", "scores") else (rows, actions)
            good, shape = tuple(column.shape) == expected, str(expected)
        if not good:
            raise ValueError(
                f"SAPairs.{name} has shape {tuple(column.shape)}; with {rows} sequences of {actions} actions it needs "
                f"{shape}"
            )
        if name in ("input_ids", "action_ids", "support_ids", "excluded_ids"):
            dtypes = (torch.int64,)
        elif name in ("attention_mask", "action_mask", "terminated", "stopped"):
            dtypes = (torch.bool,)
        else:
            dtypes = (torch.float32, torch.float64)
        if column.dtype not in dtypes:
            raise ValueError(f"SAPairs.{name} is {column.dtype}; it needs {' or '.join(map(str, dtypes))}")
        if column.device != self.action_ids.device:
            raise ValueError(
                f"SAPairs.{name} is on {column.device}, but action_ids is on {self.action_ids.device}; move it there"
            )

    def check_masks(self) -> SAPairs:
        """These pairs, if their masks make sense; a `ValueError` that says which rule which rows break otherwise.

        `build_sa_pairs` calls this. It reads values, for which a GPU has to be waited for, so that copies with more
        columns are not checked again.
        """
        prompt, response = self.attention_mask.split([self.prompt_width, self.action_ids.shape[1]], dim=1)
        broken = {
            "prompts must be left-padded": (prompt[:, :-1] & ~prompt[:, 1:]).any(dim=1) | ~prompt[:, -1],
            "responses must be right-padded": (response[:, 1:] & ~response[:, :-1]).any(dim=1),
            "a sampled token must be attended to": (self.action_mask & ~response).any(dim=1),
        }
        for rule, rows in zip(broken, torch.stack(list(broken.values())).tolist()):
            if any(rows):
                names = ", ".join(str(row) for row, bad in enumerate(rows) if bad)
                raise ValueError(f"{rule}: check attention_mask and action_mask of sequences {names}")
        return self

    def __len__(self) -> int:
        """The number of state–action pairs (sampled tokens)."""
        return int(self.action_mask.sum())

    @property
    def sequences(self) -> int:
        """The number of sequences B."""
        return self.action_ids.shape[0]

    @property
    def lengths(self) -> torch.Tensor:
        """The number of sampled tokens of each sequence, (B,) int64; observations do not count."""
        return self.action_mask.sum(dim=1)

    @property
    def prompt_width(self) -> int:
        """The number of prompt columns P."""
        return self.input_ids.shape[1] - self.action_ids.shape[1]

    @property
    def response_mask(self) -> torch.Tensor:
        """Real tokens of the response, sampled or observed: (B, A) bool, a part of `attention_mask`."""
        return self.attention_mask[:, self.prompt_width :]

    def require(self, name: str) -> torch.Tensor:
        """The column called `name`; if no step has added it yet, an error that says which one does."""
        column = getattr(self, name)
        if column is None:
            raise ValueError(f"SAPairs has no {name!r} yet: {ADDED_BY[name]} adds it; call that first")
        return column

    def with_columns(self, **columns: torch.Tensor | None) -> SAPairs:
        """A copy with these columns set, or with None taken away; shapes, dtypes and devices are checked."""
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
        """The pair of sequence `row` at response column `step`, copied out for reading. Raises `IndexError` if the
        token there was not sampled."""
        if not self.action_mask[row, step]:
            sampled = self.action_mask[row].nonzero()[:, 0].tolist()
            raise IndexError(f"sequence {row} has no action at {step}; its actions are at {sampled}")
        before = slice(0, self.prompt_width + step)
        state = self.input_ids[row, before][self.attention_mask[row, before]].tolist()
        names = ("old_logprobs", *[name for name in ADDED_BY if name != "scores"])
        numbers = {name: float(column[row, step]) for name in names if (column := getattr(self, name)) is not None}
        return Pair(state, int(self.action_ids[row, step]), numbers)
