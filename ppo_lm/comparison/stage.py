"""`ppo-lm evaluate`: policies side by side on held-out prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ppo_lm.base_setup import load_base
from ppo_lm.comparison.contestants import Contestant, load_policies, read_contestants
from ppo_lm.comparison.report import print_tables, write_results
from ppo_lm.comparison.results import Comparison, compare
from ppo_lm.config import EvaluateConfig
from ppo_lm.data import PromptSet, load_prompts
from ppo_lm.errors import ConfigError
from ppo_lm.evaluation import Evaluation, evaluate, evaluate_texts
from ppo_lm.models import PolicyModel, RewardModel
from ppo_lm.ppo_trainer import RewardComputer, SequenceGenerator
from ppo_lm.ppo_trainer.inputs import check_columns, fit_prompts, load_reward
from ppo_lm.rewards import Scorer, tldr_heuristics
from ppo_lm.rollout import SamplingSettings
from ppo_lm.tracking import StageLog, append_record, check_output_dir


def run_comparison(config: EvaluateConfig, quiet: bool = False) -> dict[str, list[Comparison]]:
    """Sample from every policy, judge, compare. Returns the comparisons by kind of sampling: `sampled` and `near_greedy`.

    Writes into `config.output_dir`: results.json, report.md with a picture, completions.jsonl, config, data report.
    """
    if config.prompts is None:
        raise ConfigError(['prompts is not set; name a file, a hub data set, or "embedded"'], "EvaluateConfig")
    check_output_dir(config.output_dir)
    prompts, report = load_prompts(config.prompts, config)
    contestants = read_contestants(config, prompts)
    judge = load_reward(config.judge) if config.judge is not None else load_reward(tldr_heuristics)
    check_columns(judge, prompts, config.prompts)

    policies = load_policies(contestants, config)
    first = next(iter(policies.values()))
    prompts, report = fit_prompts(prompts, report, config, first.base)
    held_out = prompts.split(config.eval_prompts, config.seed)[1]
    report.describe_split([], [str(prompt) for prompt in held_out.prompts])
    log = StageLog(config, config.output_dir, quiet)
    log.data(report)
    scorer = RewardComputer(_load_judge(judge, config, first), config.micro_batch_size)

    kinds = {
        "sampled": SamplingSettings(config.max_new_tokens, config.temperature, config.top_k, config.top_p),
        "near_greedy": SamplingSettings(config.max_new_tokens, config.eval_temperature),
    }
    results = {}
    for kind, sampling in kinds.items():
        made = {}
        for contestant in contestants:
            log.say(f"{kind.replace('_', ' ')}: {contestant.name}")
            evaluation = evaluate_contestant(contestant, policies, scorer, held_out, sampling, config)
            made[contestant.name] = evaluation if kind == "sampled" else replace(evaluation, kl=None)  # at another temperature it compares other distributions
        results[kind] = compare(made, config.seed)
        for name, evaluation in made.items():
            for prompt, text, score in zip(held_out.prompts, evaluation.texts, evaluation.scores):
                append_record(log.folder / "completions.jsonl", {"sampling": kind, "model": name, "prompt": prompt, "completion": text, "score": score})
    print_tables(results, len(held_out), log.console)
    write_results(results, len(held_out), scorer.names[0], log.folder)
    log.finish()
    return results


def evaluate_contestant(
    contestant: Contestant, policies: dict[str, PolicyModel], scorer: RewardComputer, prompts: PromptSet, sampling: SamplingSettings, config: EvaluateConfig
) -> Evaluation:
    """Sample from the contestant's policy, or take the completions of its column, and score them. The first policy is the reference of the KL."""
    first = next(iter(policies.values()))
    if contestant.column is not None:
        texts = prompts.columns[contestant.column]
        lengths = [len(ids) for ids in first.base.tokenizer(texts, add_special_tokens=False)["input_ids"]]
        return evaluate_texts(texts, lengths, scorer, prompts)
    policy = policies[contestant.name]
    comparable = policy.base.tokenizer.get_vocab() == first.base.tokenizer.get_vocab()
    generator = SequenceGenerator(policy, first if comparable else policy, sampling, config.micro_batch_size, config.seed)
    made = evaluate(generator, scorer, None, prompts, config.batch_size)
    return made if comparable else replace(made, kl=None)


def _load_judge(judge: Scorer | Path, config: EvaluateConfig, first: PolicyModel) -> Scorer | RewardModel:
    if not isinstance(judge, Path):
        return judge
    base = first.base if config.judge_base is None else load_base(config.judge_base, config.dtype, config.device)
    return RewardModel.load(base, judge, "judge")
