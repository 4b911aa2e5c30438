"""Break each detail of docs/implementation_details.md in a copy of the repository, and check that its test fails.

    uv run benchmarks/mutation_check.py [--only 18 19]

`DETAILS` is the list that the page shows. Exit code 1 if a test passes although its detail is broken.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache")
PASSED, FAILED = 0, 1  # pytest's exit codes


class Detail(NamedTuple):
    """One detail of the page.

    place: the function that implements it, as file::function or file::Class.function.
    code: an expression or statement that occurs once in that function. It is compared as syntax, so layout, comments
        and quotes do not matter.
    broken: what to replace it with.
    test: the test that notices, as file::function.
    """

    number: int
    place: str
    code: str
    broken: str
    test: str


DETAILS = [
    Detail(
        1,
        "ppo_lm/data/cutting.py::cut_text",
        "[match.end() for match in SENTENCE_END.finditer(text)]",
        "list(range(1, len(text)))",
        "tests/data/test_cutting.py::test_never_inside_a_word_and_always_as_long_as_possible",
    ),
    Detail(
        2,
        "ppo_lm/data/encoding.py::encode_completion",
        "[*ids, eos_token_id]",
        "ids",
        "tests/data/test_encoding.py::test_a_completion_keeps_its_leading_space_and_ends_with_eos",
    ),
    Detail(
        3,
        "ppo_lm/data/encoding.py::pad",
        "mask[row, columns] = True",
        "mask[row] = ids[row] != pad_token_id",
        "tests/data/test_prompts.py::test_padding_side_and_mask",
    ),
    Detail(
        4,
        "ppo_lm/ppo_trainer/generator.py::SequenceGenerator._begin",
        'pad(encoded, base.pad_token_id, side="left", device=base.device)',
        'pad(encoded, base.pad_token_id, side="right", device=base.device)',
        "tests/rollout/test_rollout.py::test_padding_and_neighbours_change_no_log_probability",
    ),
    Detail(
        5,
        "ppo_lm/ops/logprobs.py::position_ids",
        "attention_mask.long().cumsum(dim=1)",
        "torch.ones_like(attention_mask).long().cumsum(dim=1)",
        "tests/ops/test_ops.py::test_positions_count_real_tokens_only",
    ),
    Detail(
        6,
        "ppo_lm/token_attribution/extractor.py::extract_actions",
        "ends_before == 0",
        "ends_before >= 0",
        "tests/token_attribution/test_token_attribution.py::test_the_response_is_cut_after_its_first_eos",
    ),
    Detail(
        7,
        "ppo_lm/models/base_model.py::BaseModel._adapters_changed",
        "self._adapters.eval()",
        "self._adapters.train()",
        "tests/models/test_models.py::test_dropout_is_off_although_lora_dropout_is_set",
    ),
    Detail(
        8,
        "ppo_lm/rewards/model_reward.py::_score_pairs",
        "model.scores(part.input_ids, part.attention_mask)",
        "model.scores(part.action_ids, part.action_mask)",
        "tests/rewards/test_model_reward.py::test_sampled_tokens_are_read_and_not_their_texts_whatever_the_micro_batches",
    ),
    Detail(
        9,
        "ppo_lm/models/score_head.py::ScoreHead.__init__",
        "(hidden_size + 1) ** -0.5",
        "1.0",
        "tests/models/test_score_head.py::test_a_head_starts_from_a_normal_distribution_of_its_width_and_no_bias",
    ),
    Detail(
        10,
        "ppo_lm/models/reward_model.py::RewardModel.scores",
        "torch.where(attention_mask, positions, -1).argmax(dim=1)",
        "torch.full((len(input_ids),), input_ids.shape[1] - 1)",
        "tests/models/test_models.py::test_the_reward_is_read_at_the_last_real_token_whatever_the_padding",
    ),
    Detail(
        11,
        "ppo_lm/reward_modeling/reward_trainer.py::normalise",
        "model.mean, model.std = float(scores.mean()), float(scores.std())",
        "pass",
        "tests/reward_modeling/test_reward_trainer.py::test_normalised_scores_have_mean_0_and_deviation_1_in_the_order_given",
    ),
    Detail(
        12,
        "ppo_lm/evaluation/statistics.py::calibration_error",
        "abs(accuracy - confidence)",
        "accuracy - confidence",
        "tests/evaluation/test_statistics.py::test_calibration_error_by_hand_and_by_torchmetrics",
    ),
    Detail(
        13,
        "ppo_lm/base_setup/model_setup.py::make_value_model",
        "value.head.start_from(rewards[0].head, rewards[0].mean, rewards[0].std)",
        "None",
        "tests/models/test_score_head.py::test_the_value_model_starts_from_the_reward_model",
    ),
    Detail(
        13,
        "ppo_lm/models/value_model.py::ValueModel.__init__",
        "nn.init.zeros_(self.head.linear.weight)",
        "None",
        "tests/models/test_score_head.py::test_without_a_reward_model_the_value_model_starts_from_0",
    ),
    Detail(
        14,
        "ppo_lm/ops/logprobs.py::_chunk_logprobs",
        "logits / temperature",
        "logits",
        "tests/ops/test_ops.py::test_log_probabilities_are_the_log_softmax_over_the_vocabulary",
    ),
    Detail(
        15,
        "ppo_lm/rollout/sampling.py::sample_tokens",
        "ids.masked_fill(outside, -1)",
        "ids",
        "tests/rollout/test_rollout.py::test_samples_follow_the_truncated_distribution",
    ),
    Detail(
        16,
        "ppo_lm/reward_kl/reward_adjuster.py::RewardAdjuster.adjust_rewards_with_kl",
        "torch.where(sa_pairs.terminated, scores, self.missing_eos_score)",
        "scores",
        "tests/reward_kl/test_reward_kl.py::test_missing_eos_replaces_the_score",
    ),
    Detail(
        17,
        "ppo_lm/token_attribution/token_attribution.py::attribute_scores",
        "action_mask & (sampled == sampled[:, -1:])",
        "action_mask",
        "tests/token_attribution/test_token_attribution.py::test_the_score_lands_on_the_last_sampled_token",
    ),
    Detail(
        17,
        "ppo_lm/reward_kl/reward_adjuster.py::RewardAdjuster.adjust_rewards_with_kl",
        'kl_coef * torch.where(mask, sa_pairs.require("kl"), 0.0)',
        "0.0",
        "tests/reward_kl/test_reward_kl.py::test_reward_is_score_on_the_last_sampled_token_minus_kl",
    ),
    Detail(
        18,
        "ppo_lm/reward_kl/reward_adjuster.py::RewardAdjuster.adjust_rewards_with_kl",
        "masked_whiten(rewards, mask, shift_mean=False)",
        "masked_whiten(rewards, mask)",
        "tests/reward_kl/test_reward_kl.py::test_whitened_rewards_keep_their_mean_and_have_variance_1",
    ),
    Detail(
        19,
        "ppo_lm/ops/masked.py::masked_whiten",
        "masked_mean(values, mask)",
        "values.mean()",
        "tests/ops/test_ops.py::test_mean_and_whitening_ignore_padding",
    ),
    Detail(
        20,
        "ppo_lm/ppo_trainer/ppo_trainer.py::PPOTrainer.ppo_step",
        "sa_pairs.with_columns(advantages=advantages)",
        'sa_pairs.with_columns(advantages=advantages, returns=advantages + sa_pairs.require("values"))',
        "tests/ppo_trainer/test_options.py::test_returns_come_before_whitening",
    ),
    Detail(
        21,
        "ppo_lm/training/value_loss.py::value_loss",
        "torch.maximum(error, clipped_error)",
        "clipped_error",
        "tests/training/test_losses.py::test_value_loss_by_hand",
    ),
    Detail(
        21,
        "ppo_lm/training/value_loss.py::value_loss",
        "torch.maximum(error, clipped_error) / 2",
        "torch.maximum(error, clipped_error)",
        "tests/training/test_losses.py::test_value_loss_by_hand",
    ),
    Detail(
        22,
        "ppo_lm/experience_buffer/buffer.py::ExperienceBuffer.mini_batches",
        "torch.randperm(sa_pairs.sequences, generator=self.random)",
        "torch.arange(sa_pairs.sequences)",
        "tests/experience_buffer/test_buffer.py::test_every_sequence_once_a_pass_and_a_new_order_every_pass",
    ),
    Detail(
        23,
        "ppo_lm/optimisation/optimiser.py::Optimiser.__init__",
        "epsilon",
        "1e-8",
        "tests/ppo_trainer/test_differential.py::test_one_whole_update_moves_every_weight_as_adamw_on_the_slow_losses_does",
    ),
    Detail(
        23,
        "ppo_lm/optimisation/optimiser.py::make_schedule",
        "fractions[min(step - warmup_steps, falling)]",
        "1.0",
        "tests/ppo_trainer/test_model_trainer.py::test_the_learning_rate_falls_to_0_over_the_run",
    ),
    Detail(
        24,
        "ppo_lm/reward_kl/kl_controller.py::KLController.update",
        "min(max(kl / self.target - 1, -ERROR_CLIP), ERROR_CLIP)",
        "kl / self.target - 1",
        "tests/reward_kl/test_reward_kl.py::test_the_controller_steers_towards_its_target_by_hand",
    ),
    Detail(
        24,
        "ppo_lm/ppo_trainer/updates.py::Training.update",
        "self._mean_kl(batch, sums) > self.target_kl",
        "False",
        "tests/ppo_trainer/test_options.py::test_a_target_kl_leaves_out_the_rest_of_a_steps_updates_and_the_schedule_goes_on",
    ),
    Detail(
        25,
        "ppo_lm/ppo_trainer/generator.py::SequenceGenerator.__init__",
        "torch.Generator().manual_seed(seed)",
        "torch.Generator().manual_seed(0)",
        "tests/ppo_trainer/test_ppo_trainer.py::test_the_same_seed_gives_the_same_run_and_another_seed_another",
    ),
    Detail(
        26,
        "ppo_lm/evaluation/sampling_kinds.py::sampling_kinds",
        "SamplingSettings(config.max_new_tokens, config.eval_temperature)",
        "training_sampling(config)",
        "tests/ppo_trainer/test_options.py::test_evaluations_are_near_greedy_too",
    ),
    Detail(
        27,
        "ppo_lm/ppo_trainer/model_trainer.py::ModelTrainer._train_models",
        'self.optimisers["value"].steps_done < self.warmup_updates',
        "False",
        "tests/ppo_trainer/test_options.py::test_the_value_model_warms_up_alone",
    ),
    Detail(
        27,
        "ppo_lm/advantage/estimators.py::add_gae",
        "gae.compute_gae_advantages(sa_pairs, gamma, config.value_lam)",
        "gae.compute_gae_advantages(sa_pairs, gamma, lam)",
        "tests/advantage/test_estimators.py::test_gae_runs_twice_only_for_another_lambda",
    ),
    Detail(
        27,
        "ppo_lm/value_modeling/value_trainer.py::make_pairs",
        "attribute_scores(scores, action_mask)",
        "torch.where(action_mask, scores[:, None], 0.0)",
        "tests/value_modeling/test_value_modeling.py::test_demonstrations_as_rollouts_by_hand",
    ),
    Detail(
        27,
        "ppo_lm/base_setup/model_setup.py::make_value_model",
        "value.head.load(value_folder)",
        "None",
        "tests/value_modeling/test_value_modeling.py::test_ppo_starts_from_what_the_stage_left",
    ),
    Detail(
        28,
        "ppo_lm/advantage/gae_advantage.py::length_adaptive_lam",
        "lengths.clamp(min=1)",
        "torch.full_like(lengths, 40)",
        "tests/advantage/test_advantage.py::test_length_adaptive_lambda_by_hand",
    ),
    Detail(
        29,
        "ppo_lm/training/policy_loss.py::policy_loss",
        "clip_epsilon if clip_epsilon_high is None else clip_epsilon_high",
        "clip_epsilon",
        "tests/training/test_loss_options.py::test_clip_higher_and_dual_clip_by_hand",
    ),
    Detail(
        29,
        "ppo_lm/training/policy_loss.py::policy_loss",
        "torch.maximum(surrogate, dual_clip * advantages)",
        "surrogate",
        "tests/training/test_loss_options.py::test_clip_higher_and_dual_clip_by_hand",
    ),
    Detail(
        30,
        "ppo_lm/training/token_weights.py::truncated_importance",
        "importance_weights(old_logprobs, sampler_logprobs, mask).clamp(max=cap)",
        "importance_weights(old_logprobs, sampler_logprobs, mask)",
        "tests/training/test_loss_options.py::test_truncated_importance_by_hand_and_one_in_padding",
    ),
    Detail(
        30,
        "ppo_lm/training/token_weights.py::double_sided_importance",
        "(weights >= floor) & (weights <= cap)",
        "weights <= cap",
        "tests/training/test_loss_options.py::test_double_sided_importance_by_hand_and_one_in_padding",
    ),
    Detail(
        31,
        "ppo_lm/ops/logprobs.py::on_support",
        "logits.gather(1, support_ids.clamp(min=0)).masked_fill(support_ids < 0, -torch.inf)",
        "logits",
        "tests/ops/test_ops.py::test_on_a_support_they_are_renormalised_over_it",
    ),
    Detail(
        32,
        "ppo_lm/training/kl_loss.py::kl_loss",
        'ratio.detach() if estimator == "k2" else ratio',
        "1.0",
        "tests/training/test_loss_options.py::test_the_expected_gradient_of_the_kl_in_the_loss_is_that_of_the_kl",
    ),
    Detail(
        32,
        "ppo_lm/reward_kl/kl_divergence.py::KLDivergence.compute_kl",
        "torch.expm1(-difference) + difference",
        "torch.expm1(-difference)",
        "tests/reward_kl/test_reward_kl.py::test_the_estimators_average_to_the_exact_kl",
    ),
    Detail(
        33,
        "ppo_lm/training/token_weights.py::token_weights",
        "mask.to(dtype) / mask.sum(dim=1, keepdim=True).clamp(min=1)",
        "mask.to(dtype)",
        "tests/training/test_loss_options.py::test_a_mean_over_tokens_and_a_mean_over_sequences_by_hand",
    ),
]


def break_code(source: str, detail: Detail) -> str:
    """The source with the detail broken. Raises `ValueError` unless its code occurs exactly once in its place."""
    tree = ast.parse(source)
    code, broken = _parse(detail.code), _parse(detail.broken)
    if isinstance(code, ast.expr) != isinstance(broken, ast.expr):
        raise ValueError(f"{detail.code!r} and {detail.broken!r} must be two expressions or two statements")
    text = ast.dump(code)
    found = [node for node in ast.walk(_find_function(tree, detail.place)) if ast.dump(node) == text]
    if len(found) != 1:
        raise ValueError(f"{detail.place}: {detail.code!r} occurs {len(found)} times; it must occur once")
    return ast.unparse(_Replace(found[0], broken).visit(tree))


class _Replace(ast.NodeTransformer):
    """Puts `new` in the place of the very node `old`."""

    def __init__(self, old: ast.AST, new: ast.AST):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def _parse(code: str) -> ast.expr | ast.stmt:
    (statement,) = ast.parse(code).body
    return statement.value if isinstance(statement, ast.Expr) else statement


def _find_function(tree: ast.Module, place: str) -> ast.AST:
    scope: ast.AST = tree
    for name in place.partition("::")[2].split("."):
        inner = (node for node in ast.iter_child_nodes(scope) if isinstance(node, (ast.FunctionDef, ast.ClassDef)))
        found = next((node for node in inner if node.name == name), None)
        if found is None:
            raise ValueError(f"{place}: there is no {name!r}")
        scope = found
    return scope


def passes(tests: Iterable[str], broken: Detail | None = None) -> bool:
    """Whether the tests pass in a copy of the repository, in which a detail may be broken. Raises `RuntimeError` if
    they could not be run."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
        if broken:
            file = copy / broken.place.partition("::")[0]
            file.write_text(break_code(file.read_text(encoding="utf-8"), broken), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        result = subprocess.run(command, cwd=copy, env=environment, check=False, capture_output=True, text=True)
    if result.returncode not in (PASSED, FAILED):
        raise RuntimeError(f"{' '.join(command)} could not run:\n{(result.stdout + result.stderr)[-2000:]}")
    return result.returncode == PASSED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", type=int, default=[], metavar="NUMBER")
    only = parser.parse_args().only
    chosen = [detail for detail in DETAILS if not only or detail.number in only]
    if not passes(sorted({detail.test for detail in chosen})):
        sys.exit("the tests fail before anything is broken; fix that first")
    noticed = 0
    for detail in chosen:
        passed = passes([detail.test], broken=detail)
        noticed += not passed
        verdict = "NOT NOTICED" if passed else "noticed"
        print(f"{detail.number:>2}  {verdict:<11}  {detail.place}: {detail.code} -> {detail.broken}", flush=True)
    print(f"{noticed} of {len(chosen)} broken details were noticed by their test")
    sys.exit(noticed < len(chosen))


if __name__ == "__main__":
    main()
