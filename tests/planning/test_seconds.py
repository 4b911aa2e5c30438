"""Predicted time: against counted FLOPs, by hand, and what must hold whatever the efficiency."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ppo_lm import kernels
from ppo_lm.base_setup import make_lora_config
from ppo_lm.config import PPOConfig
from ppo_lm.distributed.sharing import share_jobs
from ppo_lm.models import PolicyModel
from ppo_lm.planning import Job, Layout, plan_for
from ppo_lm.planning.efficiency import CPU_BF16, CPU_FP32, GPU, Efficiency, find_efficiency
from ppo_lm.planning.layout import share_of
from ppo_lm.planning.memory import memory_by_part
from ppo_lm.planning.seconds import FP32, seconds_by_phase
from ppo_lm.tracking.floor import Machine
from ppo_lm.types import SAPairs
from tests.conftest import make_base

pytestmark = pytest.mark.fast

ONLY_PRODUCTS = Efficiency(1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0)
ROWS, PROMPT, RESPONSE = 8, 8, 16  # 192 tokens, which a CPU does not pad


@pytest.fixture
def small() -> tuple[PolicyModel, Job, SAPairs]:
    """A policy that our own passes run, and a job and pairs of its size."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 8}
    base, blank = make_base(torch.float32, **sizes), make_base(torch.float32, **sizes).network
    base.add_adapter("policy", make_lora_config(2, 4, 0.0))
    config = PPOConfig(
        model_name="embedded",
        lora_r=2,
        batch_size=ROWS,
        responses_per_prompt=2,
        advantage_estimator="rloo",
        max_new_tokens=RESPONSE,
        ppo_epochs=1,
    )
    job = Job(config, blank, PROMPT, RESPONSE)
    ids = torch.randint(2, 1500, (ROWS, PROMPT + RESPONSE), generator=torch.Generator().manual_seed(0))
    return (
        PolicyModel(base, "policy"),
        job,
        dataclasses.replace(job.pairs(ROWS), input_ids=ids, action_ids=ids[:, PROMPT:]),
    )


def count_in_place(total, left, right, out_shape=None, **_) -> int:
    """FLOPs of `addmm_`, which torch's counter leaves out."""
    return 2 * left[0] * left[1] * right[1]


def test_the_products_are_those_that_a_counter_sees(small, cpu, monkeypatch):
    monkeypatch.setattr(kernels, "find_products", lambda *tensors: None)  # it does not see ours
    policy, job, pairs = small
    assert policy.base.paths.accelerated is not None
    in_place = {torch.ops.aten.addmm_: count_in_place}
    with FlopCounterMode(display=False, custom_mapping=in_place) as scoring, torch.no_grad():
        policy.action_logprobs(pairs)
    with FlopCounterMode(display=False, custom_mapping=in_place) as training, policy.base.role("policy"):
        policy.action_logprobs(pairs).sum().backward()
    seconds = seconds_by_phase(job, cpu, Layout(1), ONLY_PRODUCTS)
    assert seconds["scoring"].products == pytest.approx(scoring.get_total_flops(), rel=0.05)
    assert seconds["training"].products == pytest.approx(training.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("efficiency", [CPU_FP32, CPU_BF16, GPU])
@pytest.mark.parametrize(
    "more",
    [
        {"batch_size": 256},
        {"prompt_tokens": 400},
        {"max_new_tokens": 60},
        {"lora_r": 64},
        {"ppo_epochs": 8},
        {"mini_batches": 4},
        {"model_name": "Qwen/Qwen3-1.7B"},
        {"old_logprobs": "recomputed"},
    ],
    ids=str,
)
def test_more_work_takes_no_less_time_or_memory(more, efficiency, make_job, cpu):
    settings = {"batch_size": 64, "max_new_tokens": 30}
    hardware = cpu._replace(machine=Machine(1e11, 5e10))
    steps, peaks = [], []
    for job in (make_job(**settings), make_job(**settings | more)):
        steps.append(sum(spent.total for spent in seconds_by_phase(job, hardware, Layout(1), efficiency).values()))
        peaks.append(sum(memory_by_part(job, hardware, Layout(1), efficiency).values()))
    assert steps[0] < steps[1] and peaks[0] <= peaks[1]


def test_a_share_of_the_rows_takes_less_time(make_job, h100s):
    job = make_job(batch_size=64)
    alone, together = (plan_for(job, h100s(8), Layout(n)) for n in (1, 8))
    assert 4 < alone.step_seconds / together.step_seconds < 8


def test_gradients_are_sent_around_a_ring(make_job, h100s):
    job = make_job(batch_size=64, ppo_epochs=2, mini_batches=3)
    sent = 6 * 2 * job.trained_weights * FP32 * 7 / 8  # updates, twice around, all but the own eighth
    near, far = (plan_for(job, h100s(*where), Layout(8)).seconds["training"].sent for where in ((8, 1), (4, 2)))
    assert near == pytest.approx(sent / 450e9)
    assert far == pytest.approx(sent / 50e9)
    assert plan_for(job, h100s(), Layout(1)).seconds["training"].sent == 0


def test_a_sharded_base_is_gathered_in_every_pass(make_job, h100s):
    job = make_job(batch_size=64, advantage_estimator="rloo", responses_per_prompt=2, ppo_epochs=1)
    spent = plan_for(job, h100s(8), Layout(4, True, 4)).seconds
    whole = job.sizes.weights * 2 * 3 / 4 / 450e9
    assert spent["scoring"].sent == pytest.approx(2 * whole)  # the reference, and the entropies that servers lack
    assert spent["training"].sent == pytest.approx(3 * whole, rel=0.1)
    assert spent["sampling"].sent == 0


@pytest.mark.parametrize("trainers", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("backbone", ["separate", "shared"])
def test_a_trainer_passes_as_many_rows_as_it_is_dealt(trainers, backbone, make_job, h100s):
    """Rows of equal length; with two models, half of the processes pass each."""
    job = make_job(batch_size=192, mini_batches=2, value_backbone=backbone, value_model=None)
    models = 1 if backbone == "shared" else 2
    share = share_of(job, h100s(trainers), Layout(trainers))
    dealt = [share_jobs([[job.row_tokens] * 96] * models, trainers, rank) for rank in range(trainers)]
    own = [[len(each.all_rows[each.rank]) for each in shares] for shares in dealt]
    assert share.trained_rows == max(rows for shares in own for rows in shares)
    assert share.trained_rows * share.passes.trained == max(sum(shares) for shares in own)


def test_with_a_sharded_base_a_trainer_passes_its_rows_through_both_models(make_job, h100s):
    """Processes that gather weights together have to pass the same model."""
    job = make_job(batch_size=192, mini_batches=2)
    share = share_of(job, h100s(4), Layout(4, sharded=True))
    assert (share.trained_rows, share.passes.trained) == (96 / 4, 2)


@pytest.mark.parametrize(("eval_prompts", "slots"), [(0, 8), (128, 32), (4096, 64)])
def test_an_evaluation_may_need_more_slots_than_a_step(eval_prompts, slots, make_job, h100s):
    job = make_job(batch_size=32, eval_prompts=eval_prompts, rollout_slots=64)
    assert share_of(job, h100s(4), Layout(4)).slots == slots


def test_two_trainers_pass_a_model_each(make_job, h100s):
    """The one that passes the policy through also has all of its logits."""
    job = make_job(batch_size=64, micro_batch_tokens=2**20)
    both, alone = (plan_for(job, h100s(n), Layout(n)) for n in (2, 1))
    policy = plan_for(make_job(batch_size=64, value_backbone="shared", value_model=None), h100s(), Layout(1))
    assert both.seconds["training"].products == pytest.approx(policy.seconds["training"].products)
    assert 0.5 < both.seconds["training"].products / alone.seconds["training"].products < 0.6
    assert both.memory["activations"] == alone.memory["activations"]


def test_gradients_of_all_weights_are_sent_in_one_message(make_job, h100s):
    job = make_job(batch_size=8, lora_r=0, max_new_tokens=8)
    alone, both = (plan_for(job, h100s(2), Layout(n)).memory for n in (1, 2))
    assert both["gradients to send"] == 4 * job.trained_weights and "activations" not in both
    assert "gradients to send" not in alone and "activations" in alone


def test_checkpointing_activations_saves_memory_and_takes_time(make_job, h100s):
    plans = [plan_for(make_job(batch_size=64, gradient_checkpointing=on), h100s(), Layout(1)) for on in (False, True)]
    assert plans[1].memory["activations"] < plans[0].memory["activations"] / 5
    assert plans[1].seconds["training"].products == pytest.approx(1.5 * plans[0].seconds["training"].products, rel=0.05)


def test_reward_models_on_the_base_take_a_pass_each(make_job, h100s):
    job = make_job(batch_size=64, mini_batches=2)  # values and references take a pass each
    without, with_two = (plan_for(dataclasses.replace(job, reward_models=n), h100s(), Layout(1)) for n in (0, 2))
    assert without.seconds["reward"].total == 0
    assert with_two.seconds["reward"].total < with_two.seconds["scoring"].total


def test_each_kind_of_device_has_its_own_efficiency():
    assert find_efficiency("cpu", 4) == CPU_FP32 and find_efficiency("cpu", 2) == CPU_BF16
    assert find_efficiency("cuda", 2) == GPU
