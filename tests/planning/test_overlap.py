"""Plans of runs whose responses are sampled by servers, at once or while the batch before is trained on."""

import io
import shlex

import pytest
from rich.console import Console

from ppo_lm.planning import Layout, choose, command_for, plan_for
from ppo_lm.planning.choice import Choice
from ppo_lm.planning.lengths import Lengths
from ppo_lm.planning.table import bottleneck, show_plan

pytestmark = pytest.mark.fast

SERVERS = {"engine": "vllm", "engine_urls": ["http://one:8000", "http://two:8000"], "top_k": 0, "top_p": 1.0}
BATCH = {"batch_size": 64, "max_new_tokens": 256}


def printed(plan) -> str:
    console = Console(file=io.StringIO(), width=200)
    show_plan(Choice(plan, "a reason"), Lengths(200, 256, "made up"), "COMMAND", console)
    return console.file.getvalue()


@pytest.mark.parametrize("more", [{}, {"ppo_epochs": 1, "max_new_tokens": 1024}], ids=["training", "sampling"])
def test_a_step_takes_the_longer_of_sampling_and_the_rest(more, make_job, h100s):
    plans = [plan_for(make_job(**BATCH | more, max_staleness=n), h100s(4), Layout(3, samplers=1)) for n in (0, 1, 2)]
    sampling = plans[0].seconds["sampling"].total
    others = sum(spent.total for phase, spent in plans[0].seconds.items() if phase != "sampling")
    assert (sampling > others) == bool(more)
    assert plans[0].step_seconds == pytest.approx(sampling + others)
    assert plans[1].step_seconds == plans[2].step_seconds == pytest.approx(max(sampling, others))
    assert bottleneck(plans[1]).startswith("sampling takes 100% of a step" if more else "training takes ")


def test_trainers_that_sample_themselves_do_not_do_two_things_at_once(make_job, h100s):
    now, ahead = (plan_for(make_job(**BATCH, max_staleness=n), h100s(2), Layout(2)) for n in (0, 1))
    assert ahead.step_seconds == now.step_seconds
    assert "overlap: none, although max_staleness is 1, because the trainers sample themselves" in printed(ahead)
    assert "overlap" not in printed(now)


def test_what_overlaps_is_said(make_job, h100s):
    now, ahead = (plan_for(make_job(**BATCH, **SERVERS, max_staleness=n), h100s(), Layout(1, False, 2)) for n in (0, 1))
    sampling, others = now.seconds["sampling"].total, now.seconds_after_sampling
    assert (
        f"overlap: none; with max_staleness 1, a step would take {others:,.2f} s instead of "
        f"{sampling + others:,.2f} s" in printed(now)
    )
    assert (
        f"overlap: with max_staleness 1, servers sample the next batch ({sampling:,.2f} s) while this one is scored "
        f"and trained on ({others:,.2f} s), so a step takes the longer of the two" in printed(ahead)
    )
    assert ahead.record()["sampling_overlaps"] and not now.record()["sampling_overlaps"]


@pytest.mark.parametrize("devices", [1, 4])
def test_servers_that_the_run_names_sample(devices, make_job, h100s, cpu):
    job = make_job(**BATCH, **SERVERS)
    for hardware in (h100s(devices), cpu):
        choice = choose(job, hardware)
        assert choice.plan.layout == Layout(hardware.devices, samplers=2)
        assert "sampler's weights" not in choice.plan.memory and not choice.plan.is_measured
        assert "the servers of engine_urls sample" in choice.reason
    options = {"engine": "vllm", "engine_urls": SERVERS["engine_urls"], "model_name": "Qwen/Qwen3-0.6B"}
    assert shlex.split(command_for(choice.plan, [], options)).count("--engine") == 1


def test_a_server_s_time_does_not_depend_on_the_trainers(make_job, h100s):
    job = make_job(**BATCH)
    few, many = (plan_for(job, h100s(8), Layout(n, samplers=1)).seconds["sampling"].total for n in (1, 7))
    assert few == many


def test_entropies_that_servers_do_not_report_take_a_pass(make_job, h100s):
    """Recomputed log-probabilities come from the same pass."""
    batch = BATCH | {"mini_batches": 2}  # so that the value model has a pass of its own
    sampled, recomputed = (
        plan_for(make_job(**batch, old_logprobs=old), h100s(2), Layout(1, samplers=1)).seconds["scoring"].total
        for old in ("sampled", "recomputed")
    )
    assert sampled == recomputed
    own = plan_for(make_job(**batch), h100s(2), Layout(1)).seconds["scoring"].total
    assert own < sampled < 2 * own
