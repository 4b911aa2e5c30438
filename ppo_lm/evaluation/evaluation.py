"""How good a policy is on held-out prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from ppo_lm.data import Prompt, PromptSet
from ppo_lm.progress import phase
from ppo_lm.rewards import Responses, Reward, RewardComputer, ask
from ppo_lm.types import SAPairs


class Generator(Protocol):
    """Samples responses, as `SequenceGenerator` does."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    def generate_sequences(
        self, prompts: Sequence[Prompt], weights_changed: bool = True, with_reference: bool = True
    ) -> tuple[SAPairs, list[str]]: ...


@dataclass(frozen=True)
class Evaluation:
    """Means over prompts; `scores`, `monitors`, `lengths` and `texts` have an entry per prompt.

    score and `scores` are taken before any batch normalisation; kl is in nats per sequence, between policy and
    reference under the sampling settings (None: not meaningful); entropy is the mean entropy of the sampling
    distributions, in nats per token; length is in tokens; ended is the share of responses that ended with EOS or a stop
    string.
    """

    score: float
    kl: float | None
    entropy: float | None
    length: float
    ended: float
    monitor: float | None
    scores: list[float]
    monitors: list[float | None] | None
    lengths: list[int]
    texts: list[str]
    step: int = 0

    def means(self) -> dict[str, float]:
        """The means, without the lists."""
        return {
            name: value for name, value in asdict(self).items() if isinstance(value, (int, float)) and name != "step"
        }


def is_best(made: Sequence[Evaluation]) -> bool:
    """Whether the last of a run's evaluations is better than all before it: by the monitor if there is one, as it is
    never trained on, otherwise by the score."""
    measured = [evaluation.score if evaluation.monitor is None else evaluation.monitor for evaluation in made]
    return all(measured[-1] > earlier for earlier in measured[:-1])


def evaluate(
    generator: Generator,
    scorer: RewardComputer,
    monitor: Reward | None,
    prompts: PromptSet,
    batch_size: int,
    with_kl: bool = True,
    scored_at_once: int | None = None,
) -> Evaluation:
    """Sample one response to each prompt with `generator`, `batch_size` at once, in order, and score them,
    `scored_at_once` (None: `batch_size`) at once. `with_kl`: whether their KL to the reference is meaningful."""
    scores, monitors, texts, kl, entropies, lengths, ended = [], [], [], [], [], [], []
    with phase("held-out evaluation", len(prompts), "prompts") as progress:
        for rows in _batches(range(len(prompts)), batch_size):
            batch, is_first = prompts.select(rows), rows[0] == 0
            sa_pairs, generated = generator.generate_sequences(batch.ids or batch.prompts, is_first, with_kl)
            responses = Responses.sampled(batch.prompts, generated, batch.columns, sa_pairs, generator.tokenizer)
            texts += generated
            for some in _batches(range(len(rows)), scored_at_once or batch_size):
                scored = responses.select(some)
                scores += scorer.compute_rewards(scored).plain.tolist()
                if monitor is not None:
                    monitors += ask(monitor, scored, scorer.timeout).opinions
            if with_kl:
                kl += (sa_pairs.old_logprobs - sa_pairs.require("ref_logprobs")).sum(dim=1).tolist()
            entropies += sa_pairs.require("entropies").sum(dim=1).tolist()
            lengths += sa_pairs.lengths.tolist()
            ended += responses.columns["terminated"]
            progress.done += len(generated)
    return Evaluation(
        score=_mean(scores),
        kl=_mean(kl) if with_kl else None,
        entropy=sum(entropies) / sum(lengths),
        length=_mean(lengths),
        ended=_mean(ended),
        monitor=_mean_of_known(monitors),
        scores=scores,
        monitors=monitors or None,
        lengths=lengths,
        texts=texts,
    )


def evaluate_texts(texts: list[str], ids: list[list[int]], scorer: RewardComputer, prompts: PromptSet) -> Evaluation:
    """Score existing completions, such as human ones; all count as ended. `ids`: their tokens, end token included."""
    lengths = [len(tokens) for tokens in ids]
    scores = scorer.compute_rewards(Responses.written(prompts.prompts, texts, prompts.columns, ids)).plain.tolist()
    return Evaluation(
        score=_mean(scores),
        kl=None,
        entropy=None,
        length=_mean(lengths),
        ended=1.0,
        monitor=None,
        scores=scores,
        monitors=None,
        lengths=lengths,
        texts=texts,
    )


def _batches(rows: range, size: int) -> Iterator[list[int]]:
    return (list(rows[start : start + size]) for start in range(0, len(rows), size))


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def _mean_of_known(numbers: Sequence[float | None]) -> float | None:
    """The mean of those that are not None; None if there are none."""
    known = [number for number in numbers if number is not None]
    return _mean(known) if known else None
