"""Whether the compared models have been trained on the prompts that they are compared on, as far as it is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ppo_lm.base_setup import find_reward_folder
from ppo_lm.comparison.contestants import Contestant, resolve
from ppo_lm.data import Prompt
from ppo_lm.run import Lineage, count_seen, trace

JUDGE = "the judge"


class Exposure(NamedTuple):
    """`prompts`: how many there are; `seen`: how many of them were in the training data of a run, by contestant and by
    the run's folder; `unseen_by_runs`: whether the runs that trained the contestants are known, and trained on none;
    `sentences`: all of it for the user."""

    prompts: int
    seen: dict[str, dict[str, int]]
    unseen_by_runs: bool
    sentences: list[str]

    def describe(self) -> str:
        """The number of prompts, and whether they are new to the models, as far as it is known."""
        prompts = "1 prompt" if self.prompts == 1 else f"{self.prompts} prompts"
        return f"{prompts} that the models' runs did not train on" if self.unseen_by_runs else prompts


def find_exposure(contestants: Sequence[Contestant], judge: str | None, prompts: Sequence[Prompt]) -> Exposure:
    """Follow every contestant that is a model, and the judge, back through the runs that trained them."""
    lineages = {c.name: trace(resolve(c.source)) for c in contestants if c.column is None}
    judge_folder = None if judge is None else find_reward_folder(judge)
    judged_by = {} if judge_folder is None else {JUDGE: trace(str(judge_folder))}
    seen = {
        name: {str(run): count for run, keys in lineage.runs.items() if (count := count_seen(prompts, keys))}
        for name, lineage in {**lineages, **judged_by}.items()
    }
    unknown = _unknown(lineages)
    trained_on_some = any(seen[name] for name in lineages)
    sentences = [
        f"{name}: {count} of the {len(prompts)} prompts were in the training data of the run in {run}"
        for name, runs in seen.items()
        for run, count in runs.items()
    ]
    if unknown:
        sentences.append(
            "whether the prompts are held out is not known: there is no record of what "
            f"{', '.join(unknown)} was trained on"
        )
    elif not trained_on_some:
        roots = " and ".join(sorted({lineage.root for lineage in lineages.values()}))
        sentences.append(
            f"no prompt was in the training data of the runs that trained the models; what {roots} was trained on "
            "before is not known"
        )
    return Exposure(len(prompts), seen, not unknown and not trained_on_some, sentences)


def _unknown(lineages: dict[str, Lineage]) -> list[str]:
    """The contestants whose training is not recorded. That of the model that recorded runs started from does not
    count: it is the same for what is compared with it."""
    roots = {lineage.root for lineage in lineages.values() if lineage.runs}
    return [name for name, lineage in lineages.items() if lineage.gaps or not (lineage.runs or lineage.root in roots)]
