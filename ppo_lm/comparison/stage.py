"""`ppo-lm evaluate`: policies side by side on the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from ppo_lm.base_setup import describe_micro_batches, make_budget, pick_device, read_adapter_base
from ppo_lm.comparison.contestants import Bases, Contestant, load_policies, read_contestants
from ppo_lm.comparison.exposure import find_exposure
from ppo_lm.comparison.report import print_tables, write_results
from ppo_lm.comparison.response_lengths import notes_on_lengths
from ppo_lm.comparison.results import Standing, compare
from ppo_lm.config import EvaluateConfig
from ppo_lm.data import DataReport, PromptSet, load_prompts
from ppo_lm.data.encoding import encode_completion, same_vocabulary
from ppo_lm.data.examples import with_leading_space
from ppo_lm.data.fitting import encode_prompt_set, fit_prompts
from ppo_lm.distributed import join
from ppo_lm.errors import ConfigError, DataError, Problems
from ppo_lm.evaluation import Evaluation, evaluate, evaluate_texts, sampling_kinds
from ppo_lm.evaluation.intervals import note_on_few
from ppo_lm.live import screens
from ppo_lm.models import BaseModel, PolicyModel
from ppo_lm.ppo_trainer import SequenceGenerator
from ppo_lm.rewards import (
    DEFAULT_REWARD,
    Reward,
    RewardComputer,
    RewardContext,
    check_prompt_columns,
    load_reward,
    make_ready,
)
from ppo_lm.rollout import SamplingSettings
from ppo_lm.run import Run, check_output_dir
from ppo_lm.saving import append_record
from ppo_lm.tracking import MetricsFile, Recorder, find_recorders


def run_comparison(
    config: EvaluateConfig, quiet: bool = False, recorders: Sequence[Recorder] = (), overwrite: bool = False
) -> dict[str, list[Standing]]:
    """Sample from every policy, score the samples with the judge, and compare. Returns a `Standing` per policy for each
    kind of sampling: `{"sampled": [...], "near_greedy": [...]}`.

    Writes into `config.output_dir`: results.json, report.md with a picture, completions.jsonl, config, data report.
    A run that is already there is refused, or replaced with `overwrite`.
    """
    join()
    prompts, report, contestants, judge = load_inputs(config, overwrite)
    bases = Bases(config)
    policies = load_policies(contestants, bases)
    first, *others = {id(policy.base): policy.base for policy in policies.values()}.values()
    prompts, report = fit_prompts(
        prompts,
        report,
        first,
        max_prompt_tokens=config.max_prompt_tokens,
        max_new_tokens=config.max_new_tokens,
        also=others,
    )
    chosen = prompts.draw(config.eval_prompts, config.seed)
    encoded = {id(first): chosen} | {id(base): encode_for(base, prompts, config) for base in others}
    report.describe_split([], [str(prompt) for prompt in chosen.prompts])
    texts = {c.name: read_column(chosen, c.column) for c in contestants if c.column is not None}
    notices = [contestant.note for contestant in contestants if contestant.note]
    exposure = find_exposure(contestants, config.judge, chosen.given)
    notices += [*exposure.sentences, *note_on_few(len(chosen)), *notes_on_lengths(contestants, config)]
    budget = make_budget(first, config.micro_batch_tokens)
    scorer = RewardComputer(judge, budget, timeout=config.judge_timeout)

    def judge_base(folder: Path) -> BaseModel:
        return bases.load(config.judge_base or read_adapter_base(folder), folder)

    make_ready(judge, RewardContext(pick_device(config.device), judge_base, budget, config.allow_special_tokens))

    console = Console(highlight=False)
    results = {}
    run = Run(
        config,
        steps=0,
        command="ppo-lm evaluate",
        overwrite=overwrite,
        recorders=[MetricsFile(), *screens(quiet), *recorders],
    )
    with run, budget.telling(run.say):
        micro_batches = describe_micro_batches(first, config.micro_batch_tokens, budget)
        run.start(f"{len(contestants)} policies on {config.prompts}{micro_batches}", reports=[report], notices=notices)
        folder = run.require_folder()
        for kind, sampling in sampling_kinds(config).items():
            made = {}
            for contestant in contestants:
                run.say(f"{kind.replace('_', ' ')}: {contestant.name}")
                if contestant.name in texts:
                    evaluation = evaluate_column(texts[contestant.name], first, scorer, chosen)
                else:
                    policy = policies[contestant.name]
                    reference = next(iter(policies.values()))
                    evaluation = evaluate_policy(
                        policy, reference, scorer, encoded[id(policy.base)], sampling, config, kind == "sampled"
                    )
                made[contestant.name] = evaluation
            results[kind] = compare(made)
            run.once(partial(write_completions_of, made, kind, chosen, folder / "completions.jsonl"))
            run.record_evaluation(len(chosen), {f"{name}, {kind}": each.means() for name, each in made.items()})
        if not quiet and run.place.is_first:
            print_tables(results, exposure, console)
        run.finish(lambda folder: write_results(results, exposure, scorer.names[0], folder))
    return results


class Inputs(NamedTuple):
    """What the configuration refers to by name."""

    prompts: PromptSet
    report: DataReport
    contestants: list[Contestant]
    judge: Reward


def load_inputs(config: EvaluateConfig, overwrite: bool = False) -> Inputs:
    """Load the inputs. All problems are raised as one error, before any model loads."""
    problems = Problems("EvaluateConfig")
    problems.attempt(check_output_dir, config, None, overwrite)
    problems.attempt(find_recorders, config.recorders)
    judge = problems.attempt(load_reward, config.judge or DEFAULT_REWARD, "judge")
    loaded = contestants = None
    if config.prompts is None:
        problems.found.append(ConfigError.no_data("prompts"))
    else:
        loaded = problems.attempt(load_prompts, config.prompts, config)
    if loaded is not None:
        contestants = problems.attempt(read_contestants, config, loaded[0])
        if judge is not None:
            problems.attempt(check_prompt_columns, judge, loaded[0], "judge", config.prompts)
    problems.raise_all()
    assert loaded is not None and contestants is not None and judge is not None  # or `raise_all` would have raised
    return Inputs(loaded[0], loaded[1], contestants, judge)


def write_completions_of(made: dict[str, Evaluation], kind: str, prompts: PromptSet, file: Path) -> None:
    """Append every policy's completions to completions.jsonl."""
    for name, evaluation in made.items():
        for prompt, text, score in zip(prompts.prompts, evaluation.texts, evaluation.scores):
            record = {"sampling": kind, "model": name, "prompt": prompt, "completion": text, "score": score}
            append_record(file, record)


def encode_for(base: BaseModel, prompts: PromptSet, config: EvaluateConfig) -> PromptSet:
    """The same prompts, encoded for another base."""
    return encode_prompt_set(prompts, base, config.max_new_tokens).draw(config.eval_prompts, config.seed)


def evaluate_policy(
    policy: PolicyModel,
    reference: PolicyModel,
    scorer: RewardComputer,
    prompts: PromptSet,
    sampling: SamplingSettings,
    config: EvaluateConfig,
    with_kl: bool,
) -> Evaluation:
    """Sample from the policy and score the samples. The KL to the reference is None unless `with_kl`, both share a
    vocabulary, and the temperature is above 0."""
    comparable = same_vocabulary(policy.base.tokenizer, reference.base.tokenizer)
    generator = SequenceGenerator(policy, reference, sampling, scorer.budget, config.seed)
    with_kl = with_kl and comparable and sampling.temperature > 0
    return evaluate(generator, scorer, None, prompts, config.batch_size, with_kl)


def evaluate_column(texts: list[str], base: BaseModel, scorer: RewardComputer, prompts: PromptSet) -> Evaluation:
    """Score the completions of a column; their lengths are in tokens of `base`."""
    end, allowed = base.eos_token_ids[0], base.allow_special_tokens
    ids = [encode_completion(base.tokenizer, text, end, allow_special_tokens=allowed) for text in texts]
    return evaluate_texts(texts, ids, scorer, prompts)


def read_column(prompts: PromptSet, column: str) -> list[str]:
    """The completions in a column, each as it follows its prompt. Raises `DataError` if a row has none."""
    found = []
    for prompt, value in zip(prompts.prompts, prompts.columns[column]):
        text = value[-1].get("content") if isinstance(value, list) and value and isinstance(value[-1], dict) else value
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"column {column!r} has no text for the prompt {prompt!r:.60}: {value!r:.40}; choose another column, "
                "or fix the rows"
            )
        found.append(with_leading_space(prompt, text))
    return found
