"""When a run evaluates its policy, and what it keeps of the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ppo_lm.config import PPOConfig
from ppo_lm.data import Prompt, PromptSet
from ppo_lm.errors import PartError
from ppo_lm.evaluation import Evaluation, EvaluationHistory, evaluate, is_best, sampling_kinds
from ppo_lm.models import PolicyModel
from ppo_lm.ppo_trainer.generator import SequenceGenerator
from ppo_lm.rewards import Reward, RewardComputer
from ppo_lm.rollout import SamplingSettings
from ppo_lm.run import Run, gathered_to_save, save_best
from ppo_lm.tracking import Answer, SamplesDrawn
from ppo_lm.user_code import users_parts

SHOWN_EXAMPLES = 3
KEPT_SAMPLES = 16  # held-out responses of each evaluation in held_out.jsonl


class Evaluator:
    """Evaluates on held-out prompts before the first step, after the last, and every `eval_every` steps: sampled as in
    training, and near-greedily (2403.17031)."""

    def __init__(
        self,
        config: PPOConfig,
        prompts: PromptSet,
        policy: PolicyModel,
        rewards: RewardComputer,
        monitor: Reward | None,
        make_generator: Callable[[SamplingSettings], SequenceGenerator],
    ):
        """`make_generator` makes one with its own random stream, so that evaluations do not affect training and all
        draw the same random numbers."""
        self.config, self.prompts, self.policy = config, prompts, policy
        self.rewards, self.monitor = rewards, monitor
        self.make_generator, self.history = make_generator, EvaluationHistory()

    def evaluate_if_due(self, run: Run) -> None:
        """Evaluate if due, at most once per step; save the policy in `best/` if it is the best so far."""
        config, step = self.config, run.step
        due = step == 0 or run.is_over or (config.eval_every and step % config.eval_every == 0)
        if not due or not len(self.prompts) or self.history.has(step):
            return
        with users_parts(f"in the evaluation at step {step}", PartError):
            found = self.evaluate(step)
        self.history.add(found)
        means = {name: evaluation.means() for name, evaluation in found.items()}
        samples = {name: self._samples(evaluation) for name, evaluation in found.items()}
        run.record_evaluation(len(self.prompts), means, samples)
        if config.eval_every and step and run.folder and is_best(self.history.made["sampled"]):
            self._save_best(run, run.folder)

    def _save_best(self, run: Run, folder: Path) -> None:
        with gathered_to_save(self.policy, merged=False):
            run.once(lambda: save_best(self.policy, folder))

    def evaluate(self, step: int) -> dict[str, Evaluation]:
        """Both evaluations, by name."""
        config, found = self.config, {}
        for name, sampling in sampling_kinds(config).items():
            made = evaluate(
                self.make_generator(sampling),
                self.rewards,
                self.monitor,
                self.prompts,
                max(config.batch_size, self.rewards.budget.slots),
                with_kl=name == "sampled",
                scored_at_once=config.batch_size,
            )
            found[name] = replace(made, step=step)
        return found

    def _samples(self, evaluation: Evaluation) -> SamplesDrawn:
        """The responses to the first different prompts."""
        rows = different(self.prompts.prompts, KEPT_SAMPLES)
        monitors = evaluation.monitors
        return SamplesDrawn(
            evaluation.step,
            [self.prompts.prompts[row] for row in rows],
            [evaluation.texts[row] for row in rows],
            [evaluation.scores[row] for row in rows],
            {"monitor": [monitors[row] for row in rows]} if monitors else {},
        )

    def examples(self, monitor_name: str) -> list[tuple[Prompt, Sequence[Answer]]]:
        """A few different prompts with their responses in the first and in the last evaluation."""
        made = self.history.made.get("sampled", [])
        if not made:
            return []
        moments = {"before": made[0], "after": made[-1]}
        return [
            (
                self.prompts.prompts[row],
                [Answer(when, seen.texts[row], _numbers(seen, row, monitor_name)) for when, seen in moments.items()],
            )
            for row in different(self.prompts.prompts, SHOWN_EXAMPLES)
        ]


def different(prompts: Sequence[Prompt], count: int) -> list[int]:
    """The rows of the first `count` different prompts."""
    first: dict[str, int] = {}
    for row, prompt in enumerate(prompts):
        first.setdefault(str(prompt), row)
    return list(first.values())[:count]


def _numbers(evaluation: Evaluation, row: int, monitor_name: str) -> dict[str, float]:
    numbers = {"reward": evaluation.scores[row]}
    monitored = evaluation.monitors[row] if evaluation.monitors else None
    return numbers if monitored is None else {**numbers, monitor_name: monitored}
