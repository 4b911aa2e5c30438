"""`ppo-lm evaluate`: policies side by side on held-out prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ppo_lm.base_setup import load_reward_model, pick_device, read_adapter_base
from ppo_lm.comparison.contestants import Bases, load_policies, read_contestants
from ppo_lm.comparison.report import print_tables, write_results
from ppo_lm.comparison.results import Standing, compare
from ppo_lm.config import EvaluateConfig
from ppo_lm.data import PromptSet, load_prompts
from ppo_lm.data.encoding import encode_completion, encode_prompt
from ppo_lm.data.examples import with_leading_space
from ppo_lm.errors import ConfigError, DataError
from ppo_lm.evaluation import Evaluation, evaluate, evaluate_texts
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.models import PolicyModel, RewardModel
from ppo_lm.ppo_trainer import RewardComputer, SequenceGenerator
from ppo_lm.ppo_trainer.inputs import check_columns, check_lengths, fit_prompts, load_reward
from ppo_lm.rewards import ClassifierReward, Scorer, response_columns, tldr_heuristics
from ppo_lm.rollout import SamplingSettings
from ppo_lm.tracking import StageLog, check_output_dir
from ppo_lm.types import SAPairs


def run_comparison(config: EvaluateConfig, quiet: bool = False) -> dict[str, list[Standing]]:
    """Sample from every policy, judge, compare. Returns the comparisons by kind of sampling: `sampled` and
    `near_greedy`.

    Writes into `config.output_dir`: results.json, report.md with a picture, completions.jsonl, config, data report.
    """
    if config.prompts is None:
        raise ConfigError(['prompts is not set; name a file, a hub data set, or "embedded"'], "EvaluateConfig")
    check_output_dir(config.output_dir)
    prompts, report = load_prompts(config.prompts, config)
    contestants = read_contestants(config, prompts)
    judge = load_reward(config.judge) if config.judge is not None else load_reward(tldr_heuristics)
    check_columns(judge, prompts, config.prompts)

    bases = Bases(config)
    policies = load_policies(contestants, bases)
    first, *others = {id(policy.base): policy.base for policy in policies.values()}.values()
    prompts, report = fit_prompts(prompts, report, config, first)
    for base in others:
        check_lengths(
            [encode_prompt(base.tokenizer, prompt) for prompt in prompts.prompts],
            config.max_new_tokens,
            base.context_length,
        )
    held_out, beyond = prompts.draw(config.eval_prompts, config.seed)
    report.describe_split([], [str(prompt) for prompt in held_out.prompts])
    texts = {c.name: read_column(held_out, c.column) for c in contestants if c.column is not None}
    log = StageLog(config, config.output_dir, quiet)
    log.data(report)
    if beyond:
        log.say(
            f"  {beyond} of these are not among those that a run on the same prompts, seed and eval_prompts holds "
            "out: it has trained on them"
        )
    judge = _load_judge(judge, config, bases)
    scorer = RewardComputer(judge, MemoryBudget(config.micro_batch_tokens, say=log.say))

    kinds = {
        "sampled": SamplingSettings(config.max_new_tokens, config.temperature, config.top_k, config.top_p),
        "near_greedy": SamplingSettings(config.max_new_tokens, config.eval_temperature),
    }
    results = {}
    for kind, sampling in kinds.items():
        made = {}
        for contestant in contestants:
            log.say(f"{kind.replace('_', ' ')}: {contestant.name}")
            evaluation = evaluate_contestant(contestant.name, policies, texts, scorer, held_out, sampling, config)
            made[contestant.name] = (
                evaluation if kind == "sampled" else replace(evaluation, kl=None)
            )  # at another temperature it compares other distributions
        results[kind] = compare(made, config.seed)
        for name, evaluation in made.items():
            for prompt, text, score in zip(held_out.prompts, evaluation.texts, evaluation.scores):
                log.append(
                    "completions.jsonl",
                    {"sampling": kind, "model": name, "prompt": prompt, "completion": text, "score": score},
                )
    print_tables(results, len(held_out), log.console)
    write_results(results, len(held_out), scorer.names[0], log.folder)
    log.say_where()
    log.close()
    return results


def evaluate_contestant(
    name: str,
    policies: dict[str, PolicyModel],
    texts: dict[str, list[str]],
    scorer: RewardComputer,
    prompts: PromptSet,
    sampling: SamplingSettings,
    config: EvaluateConfig,
) -> Evaluation:
    """Sample from the contestant's policy, or take its texts, and score them. The first policy is the reference of the
    KL, where both have one vocabulary and something is sampled."""
    first = next(iter(policies.values()))
    if name in texts:
        tokenizer, end = first.base.tokenizer, first.base.eos_token_ids[0]
        return evaluate_texts(
            texts[name], [encode_completion(tokenizer, text, end) for text in texts[name]], scorer, prompts
        )
    policy = policies[name]
    comparable = same_vocabulary(policy, first)
    generator = SequenceGenerator(policy, first if comparable else policy, sampling, scorer.budget, config.seed)
    reads_tokens = [
        reward for reward in scorer.rewards if isinstance(reward, RewardModel) and not same_vocabulary(policy, reward)
    ]
    made = evaluate(generator, ByText(scorer) if reads_tokens else scorer, None, prompts, config.batch_size)
    return made if comparable and sampling.temperature > 0 else replace(made, kl=None)


class ByText:
    """Scores responses by their texts: for a reward model with another vocabulary than the policy's."""

    def __init__(self, scorer: RewardComputer):
        self.scorer = scorer

    def compute_rewards(self, prompts: list, texts: list[str], columns: dict, sa_pairs: SAPairs):
        return self.scorer.compute_rewards(prompts, texts, response_columns(columns, sa_pairs))


def same_vocabulary(one: PolicyModel | RewardModel, other: PolicyModel | RewardModel) -> bool:
    return one.base is other.base or one.base.tokenizer.get_vocab() == other.base.tokenizer.get_vocab()


def read_column(prompts: PromptSet, column: str) -> list[str]:
    """The completions in a column, each as it follows its prompt. Raises `DataError` naming a row without one."""
    found = []
    for number, (prompt, value) in enumerate(zip(prompts.prompts, prompts.columns[column]), start=1):
        text = value[-1].get("content") if isinstance(value, list) and value and isinstance(value[-1], dict) else value
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"column {column!r} has no text for held-out prompt {number}: {value!r:.40}; take another column, or "
                "mend the rows"
            )
        found.append(with_leading_space(prompt, text))
    return found


def _load_judge(judge: Scorer | Path, config: EvaluateConfig, bases: Bases) -> Scorer | RewardModel:
    if isinstance(judge, Path):
        return load_reward_model(bases.load(config.judge_base or read_adapter_base(judge)), judge, "judge")
    if isinstance(judge, ClassifierReward):
        judge.load(pick_device(config.device))
    return judge
