"""Break each line of docs/implementation_details.md in a copy of the repository, and see its test fail.

    uv run benchmarks/mutation_check.py [--only 18 19]

`DETAILS` is the list that the page shows. Exit code 1 if a test passes although its line is broken.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PASSED, FAILED = 0, 1  # pytest's exit codes


class Detail(NamedTuple):
    """`number`: of the list; `code`: a piece of `file` that does it; `broken`: what to put in its place; `test`: a
    file, with a test's name or without."""

    number: int
    file: str
    code: str
    broken: str
    test: str


DETAILS = [
    Detail(
        1,
        "ppo_lm/data/cutting.py",
        "ends = [match.end() for match in SENTENCE_END.finditer(text)]",
        "ends = list(range(1, len(text)))",
        "tests/data/test_cutting.py",
    ),
    Detail(
        2,
        "ppo_lm/data/encoding.py",
        'add_special_tokens=False)["input_ids"], eos_token_id]',
        'add_special_tokens=False)["input_ids"]]',
        "tests/data/test_chat.py",
    ),
    Detail(
        3,
        "ppo_lm/data/encoding.py",
        "mask[row, columns] = True",
        "mask[row] = ids[row] != pad_token_id",
        "tests/data/test_prompts.py::test_padding_side_and_mask",
    ),
    Detail(
        4,
        "ppo_lm/ppo_trainer/generator.py",
        'side="left"',
        'side="right"',
        "tests/rollout/test_rollout.py::test_padding_and_neighbours_change_no_log_probability",
    ),
    Detail(
        5,
        "ppo_lm/ops/logprobs.py",
        "attention_mask.long().cumsum(dim=1) - 1",
        "attention_mask.long().add(1).cumsum(dim=1) - 1",
        "tests/ops/test_ops.py::test_positions_count_real_tokens_only",
    ),
    Detail(
        6,
        "ppo_lm/token_attribution/extractor.py",
        "action_mask = ends_before == 0",
        "action_mask = ends_before >= 0",
        "tests/token_attribution/test_token_attribution.py",
    ),
    Detail(
        7,
        "ppo_lm/models/base_model.py",
        "self.peft.eval()",
        "self.peft.train()",
        "tests/ppo_trainer/test_model_trainer.py::test_the_first_pass_has_ratio_1_and_clips_nothing_with_lora_dropout_set",
    ),
    Detail(
        8,
        "ppo_lm/rewards/reward_computer.py",
        "reward.scores(part.input_ids, part.attention_mask)",
        "reward.scores(part.action_ids, part.action_mask)",
        "tests/ppo_trainer/test_ppo_trainer.py::test_the_embedded_reward_model_scores_texts_as_it_scores_their_tokens",
    ),
    Detail(
        9, "ppo_lm/models/score_head.py", "std=(hidden_size + 1) ** -0.5", "std=1.0", "tests/models/test_score_head.py"
    ),
    Detail(
        10,
        "ppo_lm/models/reward_model.py",
        "last = torch.where(attention_mask, positions, -1).argmax(dim=1)",
        "last = torch.full((len(input_ids),), input_ids.shape[1] - 1)",
        "tests/models",
    ),
    Detail(
        11,
        "ppo_lm/reward_modeling/reward_trainer.py",
        "model.mean, model.std = float(scores.mean()), float(scores.std())",
        "model.mean, model.std = 0.0, 1.0",
        "tests/reward_modeling/test_reward_trainer.py",
    ),
    Detail(
        12,
        "ppo_lm/evaluation/statistics.py",
        "share * abs(accuracy - confidence)",
        "share * (accuracy - confidence)",
        "tests/evaluation/test_statistics.py",
    ),
    Detail(
        13,
        "ppo_lm/base_setup/model_setup.py",
        "value.head.start_from(rewards[0].head, rewards[0].mean, rewards[0].std)",
        "pass",
        "tests/models/test_score_head.py",
    ),
    Detail(
        13,
        "ppo_lm/models/value_model.py",
        "nn.init.zeros_(self.head.linear.weight)",
        "pass",
        "tests/models/test_score_head.py::test_without_a_reward_model_the_value_model_starts_from_0",
    ),
    Detail(
        14,
        "ppo_lm/ops/logprobs.py",
        "logits = logits if temperature == 1 else logits / temperature",
        "pass",
        "tests/ops/test_ops.py",
    ),
    Detail(
        15,
        "ppo_lm/rollout/sampling.py",
        "outside = probabilities.cumsum(dim=1) - probabilities >= settings.top_p",
        "outside = probabilities.cumsum(dim=1) >= 2",
        "tests/rollout/test_rollout.py::test_samples_follow_the_truncated_distribution",
    ),
    Detail(
        16,
        "ppo_lm/reward_kl/reward_adjuster.py",
        "scores = torch.where(sa_pairs.terminated, scores, self.missing_eos_score)",
        "pass",
        "tests/reward_kl/test_reward_kl.py",
    ),
    Detail(
        17,
        "ppo_lm/token_attribution/token_attribution.py",
        "is_last = action_mask & (columns == action_mask.sum(dim=1, keepdim=True) - 1)",
        "is_last = action_mask",
        "tests/token_attribution/test_token_attribution.py",
    ),
    Detail(
        17,
        "ppo_lm/reward_kl/reward_adjuster.py",
        "- self.kl_coef * torch.where",
        "+ self.kl_coef * torch.where",
        "tests/reward_kl/test_reward_kl.py",
    ),
    Detail(
        18,
        "ppo_lm/reward_kl/reward_adjuster.py",
        "shift_mean=False",
        "shift_mean=True",
        "tests/reward_kl/test_reward_kl.py",
    ),
    Detail(
        19,
        "ppo_lm/ops/masked.py",
        "mean = masked_mean(values, mask)",
        "mean = values.mean()",
        "tests/ops/test_ops.py::test_mean_and_whitening_ignore_padding",
    ),
    Detail(
        20,
        "ppo_lm/ppo_trainer/ppo_trainer.py",
        "self.gae_advantage.compute_gae_advantages(sa_pairs, config.gamma, value_lam))",
        "masked_whiten(self.gae_advantage.compute_gae_advantages(sa_pairs, config.gamma, value_lam), "
        "sa_pairs.action_mask))",
        "tests/ppo_trainer/test_options.py::test_returns_come_before_whitening",
    ),
    Detail(
        21,
        "ppo_lm/training/value_loss.py",
        "torch.maximum(error, clipped_error)",
        "clipped_error",
        "tests/training/test_losses.py::test_value_loss_by_hand",
    ),
    Detail(
        21,
        "ppo_lm/training/value_loss.py",
        "masked_sum(error, mask) / (2 * count)",
        "masked_sum(error, mask) / count",
        "tests/training/test_losses.py::test_value_loss_by_hand",
    ),
    Detail(
        22,
        "ppo_lm/experience_buffer/buffer.py",
        "torch.randperm(sa_pairs.sequences, generator=self.random)",
        "torch.arange(sa_pairs.sequences)",
        "tests/experience_buffer/test_buffer.py::test_every_sequence_once_a_pass_and_a_new_order_every_pass",
    ),
    Detail(
        23,
        "ppo_lm/optimisation/optimiser.py",
        "eps=epsilon",
        "eps=1e-8",
        "tests/ppo_trainer/test_differential.py::test_one_whole_update_moves_every_weight_as_adamw_on_the_slow_losses_does",
    ),
    Detail(
        23,
        "ppo_lm/optimisation/optimiser.py",
        "get_scheduler(name,",
        'get_scheduler("constant",',
        "tests/ppo_trainer/test_model_trainer.py::test_the_learning_rate_falls_to_0_over_the_run",
    ),
    Detail(
        24,
        "ppo_lm/reward_kl/kl_controller.py",
        "ERROR_CLIP = 0.2",
        "ERROR_CLIP = 1.0",
        "tests/reward_kl/test_reward_kl.py",
    ),
    Detail(
        24,
        "ppo_lm/ppo_trainer/model_trainer.py",
        "> config.target_kl:\n                break",
        "> config.target_kl:\n                pass",
        "tests/ppo_trainer/test_options.py::test_a_target_kl_leaves_out_the_rest_of_a_steps_updates_and_the_schedule_goes_on",
    ),
    Detail(
        25,
        "ppo_lm/ppo_trainer/generator.py",
        ".manual_seed(seed)",
        ".manual_seed(0)",
        "tests/ppo_trainer/test_ppo_trainer.py::test_the_same_seed_gives_the_same_run_and_another_seed_another",
    ),
    Detail(
        26,
        "ppo_lm/ppo_trainer/ppo_trainer.py",
        "SamplingSettings(sampling.max_new_tokens, config.eval_temperature)",
        "sampling",
        "tests/ppo_trainer/test_options.py::test_evaluations_are_near_greedy_too",
    ),
    Detail(
        27,
        "ppo_lm/ppo_trainer/model_trainer.py",
        "return value if warming_up else value | self",
        "return value | self",
        "tests/ppo_trainer/test_options.py::test_the_value_model_warms_up_alone",
    ),
    Detail(
        27,
        "ppo_lm/advantage/return_calculator.py",
        "if advantages is None else advantages",
        "if True else advantages",
        "tests/advantage/test_advantage.py::test_returns_take_a_lambda_of_their_own",
    ),
    Detail(
        27,
        "ppo_lm/value_modeling/value_trainer.py",
        "targets, targets, pairs.action_mask, denominator=1.0).loss",
        "targets, targets, pairs.action_mask).loss",
        "tests/value_modeling/test_value_modeling.py::test_the_loss_is_half_the_squared_error_whatever_the_batch",
    ),
    Detail(
        27,
        "ppo_lm/base_setup/model_setup.py",
        "value.head.load(value_folder)",
        "pass",
        "tests/value_modeling/test_value_modeling.py::test_ppo_starts_from_what_the_stage_left",
    ),
    Detail(
        28,
        "ppo_lm/advantage/gae_advantage.py",
        "(1 - 1 / (scale * lengths.clamp(min=1))).clamp(min=0)",
        "(1 - 1 / (scale * lengths.clamp(min=1)))",
        "tests/advantage/test_advantage.py::test_length_adaptive_lambda_by_hand",
    ),
    Detail(
        29,
        "ppo_lm/training/policy_loss.py",
        "(clip_epsilon if clip_epsilon_high is None else clip_epsilon_high)",
        "clip_epsilon",
        "tests/training/test_loss_options.py::test_clip_higher_and_dual_clip_by_hand",
    ),
    Detail(
        29,
        "ppo_lm/training/policy_loss.py",
        "torch.maximum(surrogate, dual_clip * advantages)",
        "surrogate",
        "tests/training/test_loss_options.py::test_clip_higher_and_dual_clip_by_hand",
    ),
    Detail(
        30,
        "ppo_lm/training/token_weights.py",
        ".exp().clamp(max=cap)",
        ".exp()",
        "tests/training/test_loss_options.py::test_truncated_importance_by_hand_and_one_in_padding",
    ),
    Detail(
        31,
        "ppo_lm/ops/logprobs.py",
        ".masked_fill(support_ids < 0, -torch.inf)",
        "",
        "tests/ops/test_ops.py::test_on_a_support_they_are_renormalised_over_it",
    ),
    Detail(
        32,
        "ppo_lm/training/kl_loss.py",
        '(ratio.detach() if estimator == "k2" else ratio) *',
        "",
        "tests/training/test_loss_options.py::test_the_expected_gradient_of_the_kl_in_the_loss_is_that_of_the_kl",
    ),
    Detail(
        32,
        "ppo_lm/reward_kl/kl_divergence.py",
        "torch.expm1(-difference) + difference",
        "torch.expm1(-difference)",
        "tests/reward_kl/test_reward_kl.py",
    ),
    Detail(
        33,
        "ppo_lm/training/token_weights.py",
        "return mask / mask.sum(dim=1, keepdim=True).clamp(min=1)",
        "return mask.float()",
        "tests/training/test_loss_options.py::test_a_mean_over_tokens_and_a_mean_over_sequences_by_hand",
    ),
]


def passes_when_broken(detail: Detail) -> bool:
    """Whether the detail's test passes in a copy in which its code is broken. A test that could not be run at all
    raises `RuntimeError`."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".pytest_cache")
        )
        file = copy / detail.file
        file.write_text(file.read_text(encoding="utf-8").replace(detail.code, detail.broken), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *detail.test.split()]
        result = subprocess.run(command, cwd=copy, env=environment, check=False, capture_output=True, text=True)
    if result.returncode not in (PASSED, FAILED):
        raise RuntimeError(f"{detail.test} could not be run: {result.stdout[-2000:]}")
    return result.returncode == PASSED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", type=int, default=[])
    only, missed = parser.parse_args().only, 0
    chosen = [detail for detail in DETAILS if not only or detail.number in only]
    for detail in chosen:
        passes = passes_when_broken(detail)
        missed += passes
        print(
            f"{detail.number:>2}  {'NOT NOTICED' if passes else 'noticed':<11}  {detail.file}: "
            f"{detail.code.splitlines()[0]}",
            flush=True,
        )
    print(f"{len(chosen) - missed} of {len(chosen)} broken lines were noticed by their test")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
