"""Sampling by SGLang servers, against a stand-in: what differs from vLLM's, see `test_remote_sampling.py`."""

from functools import partial

import pytest
import torch

from ppo_lm import PPOConfig
from ppo_lm.base_setup import load_base
from ppo_lm.errors import ConfigError, SamplerError
from ppo_lm.rollout import SamplingSettings
from ppo_lm.rollout.remote import SGLANG, VLLM, Samplers, find_servers, sglang
from ppo_lm.rollout.remote.dialect import Request
from ppo_lm.services import BadAnswer
from tests.conftest import make_base
from tests.ppo_trainer.conftest import PROMPTS, end_alike, length_reward, make, metrics
from tests.rollout.conftest import EOS, make_policy, make_prompts, sample
from tests.rollout.server_double import Error
from tests.rollout.sglang_double import SGLangDouble
from tests.rollout.test_remote_sampling import SETTINGS, SeededEngine, engine_on
from tests.rollout.test_remote_sampling import double_of as double_of_kind
from tests.rollout.vllm_double import VLLMDouble

REMOTE = dict(engine="sglang", top_k=0, top_p=1.0, lora_r=4, engine_timeout=20.0)


double_of = partial(double_of_kind, kind=SGLangDouble)


def test_a_run_is_the_same_as_if_the_server_s_engine_were_its_own(folder, tmp_path):
    with SGLangDouble(load_base(folder, "float32", "cpu")) as one:
        spec = f"{SeededEngine.__module__}:SeededEngine"
        make(folder, tmp_path / "own", length_reward, **{**REMOTE, "engine": spec}).train(PROMPTS)
        trained = make(folder, tmp_path / "run", length_reward, engine_urls=[one.url], **REMOTE)
        assert trained.engine.description.startswith("sampled by 1 SGLang server (version 0.5.23; ")
        trained.train(PROMPTS)
    end_alike(tmp_path / "run", tmp_path / "own")
    steps = [row for row in metrics(tmp_path / "run") if "score" in row and "evaluation" not in row]
    assert len(steps) == 5 and all(row["sampler_gap"] < 1e-5 for row in steps)


def test_a_server_that_was_restarted_gets_the_adapter_again():
    policy, lines = make_policy(), []
    with double_of(policy) as one:
        engine = engine_on(policy, one, say=lines.append)
        expected = sample(engine, SETTINGS, make_prompts())[0]
        one.kill()
        one.start()
        assert sample(engine, SETTINGS, make_prompts())[0] == expected
        assert lines == [] and [path for path, _ in one.seen].count(sglang.LOAD) == 2
        assert sample(engine_on(policy, one), SETTINGS, make_prompts())[0] == expected  # under another name


def test_an_adapter_that_another_process_has_loaded_is_loaded():
    policy = make_policy()
    with double_of(policy) as one:
        engine = engine_on(policy, one)
        engine.pool.servers[0].loaded.clear()
        sample(engine, SETTINGS, make_prompts())
        with pytest.raises(Error, match="already loaded"):
            one.load({"lora_name": engine.adapter.name, "lora_path": engine.adapter.folder})


def test_older_adapters_are_unloaded():
    policy = make_policy()
    with double_of(policy) as one:
        engine = engine_on(policy, one)
        for _ in range(3):
            with torch.no_grad():
                policy.parameters()[0] += 0.1
            engine.update_weights(policy)
        assert [name[-2:] for name in one.adapters] == ["-3", "-4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loads": False}, "does not load adapters while it runs; start it with --enable-lora; check"),
        ({"largest_rank": 1}, "with rank 4 is incompatible .* its --max-lora-rank has to be lora_r or more"),
        ({"raw": True}, "disagree by .* with no SGLANG_RETURN_ORIGINAL_LOGPROB in its environment"),
        ({"scale": 3.0}, "start it with the same base model and dtype"),
    ],
)
def test_a_server_that_cannot_be_used_is_found_before_the_first_step(folder, tmp_path, options, message):
    with (
        SGLangDouble(load_base(folder, "float32", "cpu"), **options) as one,
        pytest.raises(SamplerError, match=message),
    ):
        make(folder, tmp_path / "run", length_reward, engine_urls=[one.url], **REMOTE)


def test_a_refusal_is_passed_on_in_the_server_s_words():
    policy, ids = make_policy(), torch.full((1, 9), 300)
    with (
        double_of(policy, longest=12) as one,
        pytest.raises(SamplerError, match="refuses a prompt of 9 tokens with up to 6 new ones: .* of 12 tokens"),
    ):
        sample(engine_on(policy, one), SETTINGS, (ids, torch.ones_like(ids, dtype=torch.bool)))


def test_the_kinds_of_servers_are_not_taken_for_each_other():
    policy = make_policy()
    with double_of(policy) as one, VLLMDouble(make_base()) as other:
        for dialect, url in ((VLLM, one.url), (SGLANG, other.url)):
            with pytest.raises(ConfigError, match=f"404.*start {dialect.name}'s server there"):
                find_servers(dialect, Samplers([url], None, 5.0))


def test_what_a_server_says_of_itself():
    assert SGLANG.describe({"version": "0.5.23", "enable_deterministic_inference": True}) == "0.5.23"
    seedless = SGLANG.describe({"version": "0.5.23", "enable_deterministic_inference": False})
    assert seedless == "0.5.23, which ignores seeds without --enable-deterministic-inference"
    for wrong in ({}, [], {"version": 3}, {"version": "0.5.23"}):
        with pytest.raises(BadAnswer, match="so it is not SGLang"):
            SGLANG.describe(wrong)


REQUEST = Request("policy-1", [5, 6], SamplingSettings(3), [1], seed=7)


def answer(ids=(7, 8, 1), logprobs=(-1.0, -2, 0.0), **changes):
    tokens = [[number, token, None] for number, token in zip(logprobs, ids)]
    return {"output_ids": list(ids), "meta_info": {"output_token_logprobs": tokens}, **changes}


@pytest.mark.parametrize("ids", [[7, 8, 1], [7, 8, 9], [1]])
def test_a_response_ends_with_an_end_token_or_at_its_longest(ids):
    assert sglang.read_generate(answer(ids, [-0.5] * len(ids)), REQUEST) == (ids, [-0.5] * len(ids))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], '"output_token_logprobs", a list'),
        (answer(meta_info=None), '"output_token_logprobs", a list'),
        (answer(meta_info={"output_token_logprobs": [-1.0]}), '"output_token_logprobs", a list'),
        (answer(meta_info={"output_token_logprobs": [[-1.0]]}), '"output_token_logprobs", a list'),
        (answer(output_ids=[7, 8, 2]), 'are not its "output_ids"'),
        (answer(ids=[7, "8", 1]), 'are not its "output_ids"'),
        (answer(logprobs=[-1.0, None, -1.0]), "that are finite"),
        (answer(logprobs=[-1.0, float("nan"), -1.0]), "that are finite"),
        (answer(ids=[], logprobs=[]), "has 0 tokens instead of 1 to 3"),
        (answer(ids=[7, 8], logprobs=[-1.0] * 2), "does not end with an end token"),
        (answer(ids=[7, 1, 8], logprobs=[-1.0] * 3), "or goes on behind one"),
    ],
)
def test_an_answer_that_does_not_fit_the_request_is_refused(wrong, message):
    with pytest.raises(BadAnswer, match=message):
        sglang.read_generate(wrong, REQUEST)


def test_what_is_sent_names_all_that_changes_the_distribution():
    policy = make_policy()
    with double_of(policy) as one:
        sample(engine_on(policy, one), SETTINGS, make_prompts())
        bodies = [body for path, body in one.seen if path == sglang.GENERATE]
        for wrong in ({**bodies[0], "extra": 1}, {**bodies[0], "sampling_params": {"temperature": 1.0}}):
            with pytest.raises(Error, match="fields"):
                one.post(sglang.GENERATE, wrong)
    (ids, mask), wanted = make_prompts(), [body["sampling_params"] for body in bodies]
    assert sorted(body["input_ids"] for body in bodies) == sorted(row[m].tolist() for row, m in zip(ids, mask))
    assert len({each["sampling_seed"] for each in wanted}) == len(bodies)
    assert all(each["stop_token_ids"] == EOS and each["temperature"] == 1.3 for each in wanted)


def test_settings_that_do_not_fit_are_refused():
    common = {**REMOTE, "engine_urls": ["http://a:1"]}
    assert PPOConfig(**common, eval_temperature=0.005).engine == "sglang"  # which samples at any temperature
    for settings, message in (
        ({"engine_urls": None}, "engine is sglang but engine_urls is not set"),
        ({"top_k": 50}, "top_k is 50 and top_p is 1.0 but engine is sglang"),
        ({"lora_r": 0}, "lora_r is 0 but engine is sglang"),
        ({"rollout_slots": 8}, "rollout_slots is set but engine is sglang"),
    ):
        with pytest.raises(ConfigError, match=message):
            PPOConfig(**{**common, **settings})
