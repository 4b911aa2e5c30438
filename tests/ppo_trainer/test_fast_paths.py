"""Whole steps: fast against plain, and undisturbed against out of memory."""

import pytest
import torch

from ppo_lm.errors import UserError
from ppo_lm.models import BaseModel
from tests.ppo_trainer.conftest import FOUR_PROMPTS as PROMPTS
from tests.ppo_trainer.conftest import trainer

SETTINGS = dict(
    max_new_tokens=12,
    top_k=0,
    top_p=1.0,
    ppo_epochs=2,
    mini_batches=2,
    learning_rate=1e-3,
    value_learning_rate=1e-3,
    steps=5,
)
SAME = (
    "policy_loss",
    "value_loss",
    "kl",
    "score",
    "ratio",
    "approx_kl",
    "policy_grad_norm",
    "value_grad_norm",
    "explained_variance",
)


def trainer_with_values(folder, **settings):
    """With values other than 0 from the first step on."""
    trained = trainer(folder, **settings)
    torch.manual_seed(0)
    torch.nn.init.normal_(trained.roles.value.head.linear.weight, std=0.1)
    return trained


@pytest.mark.parametrize(
    "settings", [{}, {"lora_r": 0}, {"gradient_checkpointing": True}, {"top_k": 20, "top_p": 0.9}], ids=str
)
def test_five_steps_on_the_fast_and_on_the_plain_paths_agree_to_1e_4(folder, settings):
    def run(**paths):
        trained = trainer_with_values(folder, **{**SETTINGS, **settings, **paths})
        return [trained.ppo_step(PROMPTS) for _ in range(5)]

    plain, fast = run(fast=False, old_logprobs="recomputed"), run()
    for ours, theirs in zip(fast, plain):
        assert ours["generated_texts"] == theirs["generated_texts"]
        assert {name: ours[name] for name in SAME} == pytest.approx(
            {name: theirs[name] for name in SAME}, rel=1e-4, abs=1e-4
        )
    assert fast[0]["kl"] != fast[4]["kl"]  # the policy moved


@pytest.mark.parametrize(
    ("role", "training"), [("policy", False), (None, False), ("value", False), ("policy", True), ("value", True)]
)
def test_running_out_of_memory_in_any_pass_changes_nothing_but_the_budget(folder, role, training, monkeypatch):
    settings = {**SETTINGS, "old_logprobs": "recomputed", "micro_batch_tokens": 2000}
    expected = trainer_with_values(folder, **settings).ppo_step(PROMPTS)
    disturbed, failures = trainer_with_values(folder, **settings), []
    hidden_states, active = BaseModel.hidden_states, []
    switch = BaseModel._activate
    monkeypatch.setattr(BaseModel, "_activate", lambda base, to: (active.append(to), switch(base, to))[1])

    def cramped(base, ids, mask, wanted=None):
        if active[-1] == role and torch.is_grad_enabled() == training and len(ids) > 1:
            failures.append(len(ids))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return hidden_states(base, ids, mask, wanted)

    monkeypatch.setattr(BaseModel, "hidden_states", cramped)
    results = disturbed.ppo_step(PROMPTS)
    assert failures
    assert results["generated_texts"] == expected["generated_texts"]
    assert {name: results[name] for name in SAME} == pytest.approx(
        {name: expected[name] for name in SAME}, rel=1e-5, abs=1e-6
    )
    assert disturbed.budget.tokens < 2000


def test_what_one_pass_learns_about_memory_holds_for_all_others_and_for_evaluations(
    folder, monkeypatch, tmp_path, capsys
):
    """Memory for 50 tokens: the reference's pass, the first of the run, finds that out, and nothing fails after it."""
    settings = {
        **SETTINGS,
        "steps": 1,
        "eval_prompts": 4,
        "micro_batch_tokens": 2000,
        "output_dir": str(tmp_path / "run"),
    }
    trained, failures = trainer(folder, **settings), []
    hidden_states = BaseModel.hidden_states

    def cramped(base, ids, mask, wanted=None):
        if mask.sum() > 50:
            failures.append(base._active)
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return hidden_states(base, ids, mask, wanted)

    monkeypatch.setattr(BaseModel, "hidden_states", cramped)
    trained.train([f"{prompt} {n}" for n in range(2) for prompt in PROMPTS])
    assert 1 <= len(failures) <= 3 and set(failures) == {None}
    assert trained.budget.tokens <= 50
    assert capsys.readouterr().out.count("out of memory with ") == len(failures)


def test_an_error_half_way_through_the_backward_pass_leaves_no_gradient_behind(folder, monkeypatch):
    """The second micro-batch fails after the first has added its gradient; what counts is the sum of both, once."""
    settings = {**SETTINGS, "micro_batch_tokens": 40, "mini_batches": 1, "ppo_epochs": 1}
    expected, disturbed, calls = (
        trainer_with_values(folder, **settings).ppo_step(PROMPTS),
        trainer_with_values(folder, **settings),
        [],
    )
    backward = torch.Tensor.backward

    def fails_once(tensor, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            backward(tensor, *args, **kwargs)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return backward(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", fails_once)
    results = disturbed.ppo_step(PROMPTS)
    assert results["value_grad_norm"] == pytest.approx(expected["value_grad_norm"], rel=1e-5)
    assert results["value_loss"] == pytest.approx(expected["value_loss"], rel=1e-5)


def test_too_little_memory_for_one_response_is_reported_in_one_sentence(folder, monkeypatch):
    def never(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    trained = trainer(folder, **SETTINGS)
    monkeypatch.setattr(BaseModel, "hidden_states", never)
    with pytest.raises(UserError, match="out of memory with a single sequence"):
        trained.ppo_step(PROMPTS)


def test_the_cost_of_a_step_adds_up(folder):
    results = trainer(folder, **SETTINGS).ppo_step(PROMPTS)
    phases = {name: value for name, value in results.items() if name.startswith("seconds/")}
    assert phases.keys() == {"seconds/sampling", "seconds/scoring", "seconds/reward", "seconds/training"}
    assert sum(phases.values()) == pytest.approx(results["seconds"])
    assert results["peak_memory_mib"] > 100


def second_step(folder, **settings):
    """The second step of a run, whose adapter has moved: with a new one, sampling and training use the same network to
    the bit."""
    trained = trainer(folder, **{**SETTINGS, **settings})
    trained.ppo_step(PROMPTS)
    return trained.ppo_step(PROMPTS)


def test_the_gap_between_sampling_and_training_is_measured_in_both_ways(folder):
    gaps = {
        old: second_step(folder, dtype="bfloat16", old_logprobs=old)["sampler_gap"] for old in ("sampled", "recomputed")
    }
    assert gaps["sampled"] == pytest.approx(gaps["recomputed"], rel=0.5)
    assert 1e-4 < gaps["recomputed"] < 0.5  # bf16 rounds
    assert second_step(folder)["sampler_gap"] < 1e-5  # fp32 hardly


def test_recomputed_log_probabilities_start_the_ratio_at_one(folder):
    one_pass = {"ppo_epochs": 1, "mini_batches": 1, "dtype": "bfloat16"}
    assert second_step(folder, **one_pass, old_logprobs="recomputed")["approx_kl"] < 1e-6
    assert second_step(folder, **one_pass, old_logprobs="sampled")["approx_kl"] > 1e-6
