"""Sampling by vLLM servers, against a stand-in that samples with the adapters that it is given."""

import gc
import json
from pathlib import Path

import pytest
import torch

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.base_setup import load_base
from ppo_lm.errors import ConfigError, ModelError, RunPaused, SamplerError
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.rollout import (
    PlainEngine,
    RemoteEngine,
    RolloutEngine,
    Sampled,
    SamplingSettings,
    seed_of,
    start_sampling,
)
from ppo_lm.rollout.remote import VLLM, vllm
from ppo_lm.rollout.remote.dialect import Request
from ppo_lm.services import BadAnswer
from tests.conftest import make_base, uniforms
from tests.distributed.conftest import in_processes
from tests.ppo_trainer.conftest import PROMPTS, end_alike, length_reward, make, metrics
from tests.rollout.conftest import EOS, make_policy, make_prompts, sample
from tests.rollout.server_double import Error, seeded
from tests.rollout.sglang_double import SGLangDouble
from tests.rollout.vllm_double import VLLMDouble, never

REMOTE = dict(engine="vllm", top_k=0, top_p=1.0, lora_r=4, engine_timeout=20.0)
SETTINGS = SamplingSettings(6, temperature=1.3)


class SeededEngine(RolloutEngine):
    """What the stand-in does, in process: each row by itself, with random numbers from its seed."""

    def __init__(self, policy, budget=None):
        self.inner, self.ends = PlainEngine(policy), policy.base.eos_token_ids

    def sample(self, prompt_ids, prompt_mask, settings, uniforms):
        found = []
        for ids, mask, row in zip(prompt_ids, prompt_mask, uniforms):
            own = ids[mask][None]
            numbers = seeded(seed_of(row), settings.max_new_tokens)
            found.append(self.inner.sample(own, torch.ones_like(own, dtype=torch.bool), settings, numbers))
        width = max(each.ids.shape[1] for each in found)

        def join(name):
            columns = [getattr(each, name) for each in found]
            return torch.cat([torch.nn.functional.pad(each, (0, width - each.shape[1])) for each in columns])

        return Sampled(join("ids"), join("logprobs"))


def double_of(policy, kind=VLLMDouble, **options):
    """A server with the same base as `policy`."""
    base = make_base()
    base.eos_token_ids = policy.base.eos_token_ids
    return kind(base, **options)


def engine_on(policy, *doubles, folder=None, timeout=20.0, say=lambda line: None) -> RemoteEngine:
    made = RemoteEngine(policy, doubles[0].dialect, [double.url for double in doubles], folder, timeout, say=say)
    made.update_weights(policy)
    return made


def remote(folder, out, *doubles, reward=length_reward, **settings):
    """A trainer that samples at the doubles."""
    return make(folder, out, reward, engine_urls=[double.url for double in doubles], **{**REMOTE, **settings})


@pytest.fixture
def double(folder):
    with VLLMDouble(load_base(folder, "float32", "cpu")) as started:
        yield started


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory):
    """A run that samples in process what the stand-in would."""
    out = tmp_path_factory.mktemp("expected") / "run"
    spec = f"{__file__}:SeededEngine"
    make(folder, out, length_reward, **{**REMOTE, "engine": spec}).train(PROMPTS)
    return out


def test_a_run_is_the_same_as_if_the_server_s_engine_were_its_own(folder, double, expected, tmp_path):
    trained = remote(folder, tmp_path / "run", double, engine_folder=str(tmp_path / "shared"))
    assert {Path(body["lora_path"]).parents[1] for path, body in double.seen if path == vllm.LOAD} == {
        tmp_path / "shared"
    }
    assert trained.engine.description.startswith("sampled by 1 vLLM server (version 0.32.0; ")
    trained.train(PROMPTS)
    end_alike(tmp_path / "run", expected)
    steps = [row for row in metrics(tmp_path / "run") if "score" in row and "evaluation" not in row]
    assert len(steps) == 5 and all(row["sampler_gap"] < 1e-5 for row in steps)
    assert steps[-1]["score"] > steps[0]["score"]


@pytest.mark.parametrize("kind", [VLLMDouble, SGLangDouble])
@pytest.mark.parametrize("settings", [SETTINGS, SamplingSettings(6), SamplingSettings(6, 1.3, min_new_tokens=4)])
def test_log_probabilities_are_those_of_the_policy(settings, kind):
    policy = make_policy()
    with double_of(policy, kind) as one:
        sampled = sample(engine_on(policy, one), settings, make_prompts())
    own = sample(SeededEngine(policy), settings, make_prompts())
    assert sampled[0] == own[0] and any(len(row) < 6 for row in sampled[0])
    torch.testing.assert_close(sampled[1], own[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [VLLMDouble, SGLangDouble])
def test_greedy_samples_have_log_probability_0(kind):
    policy = make_policy()
    with double_of(policy, kind) as one:
        ids, logprobs, _ = sample(engine_on(policy, one), SamplingSettings(6, temperature=0), make_prompts())
    assert ids == sample(PlainEngine(policy), SamplingSettings(6, temperature=0), make_prompts())[0]
    assert logprobs.abs().sum() == 0


def test_neither_the_order_of_the_rows_nor_the_number_of_servers_changes_a_response():
    policy, (ids, mask) = make_policy(), make_prompts()
    numbers, order = uniforms(ids, SETTINGS), torch.randperm(len(ids), generator=torch.Generator().manual_seed(3))
    with double_of(policy) as one, double_of(policy) as two, double_of(policy) as three:
        whole = engine_on(policy, one).sample(ids, mask, SETTINGS, numbers)
        shuffled = engine_on(policy, one, two, three).sample(ids[order], mask[order], SETTINGS, numbers[order])
        served = [sum(path == vllm.COMPLETIONS for path, _ in each.seen) for each in (two, three)]
    assert torch.equal(shuffled.ids, whole.ids[order]) and torch.equal(shuffled.logprobs, whole.logprobs[order])
    assert all(4 <= count <= 5 for count in served)  # of 13 rows for three servers


def two_processes(urls, folder):
    policy, (ids, mask) = make_policy(), make_prompts()
    engine = RemoteEngine(policy, VLLM, urls, Path(folder), 20.0)
    engine.update_weights(policy)
    sampled = start_sampling(engine, ids, mask, SETTINGS, uniforms(ids, SETTINGS), MemoryBudget())()
    return engine.adapter.name, sampled.ids.tolist(), sampled.logprobs.tolist()


def test_several_processes_sample_from_one_version(tmp_path):
    policy = make_policy()
    with double_of(policy) as one:
        first, second = in_processes(2, two_processes, [one.url], str(tmp_path))
        alone = engine_on(policy, one).sample(*make_prompts(), SETTINGS, uniforms(make_prompts()[0], SETTINGS))
        loaded = [body["lora_name"] for path, body in one.seen if path == vllm.LOAD]
    assert first == second and first[1] == alone.ids.tolist() and first[2] == alone.logprobs.tolist()
    assert loaded.count(first[0]) >= 1 and len(set(loaded)) == 2  # one version, and that of the process alone


class Disturbs:
    """`length_reward` that does something at its `at`-th call."""

    __name__ = "length_reward"

    def __init__(self, at=0, disturb=None):
        self.calls, self.at, self.disturb = 0, at, disturb

    def __call__(self, prompts, completions):
        self.calls += 1
        if self.calls == self.at:
            self.disturb()
        return length_reward(prompts, completions)


def test_a_server_that_was_restarted_between_two_steps_gets_the_adapter_again(folder, double, expected, tmp_path):
    def restart():
        double.kill()
        double.start()

    remote(folder, tmp_path / "run", double, reward=Disturbs(5, restart)).train(PROMPTS)
    end_alike(tmp_path / "run", expected)


def test_a_server_that_was_restarted_within_a_version_gets_it_again():
    policy = make_policy()
    with double_of(policy) as one:
        engine = engine_on(policy, one)
        before = sample(engine, SETTINGS, make_prompts())
        one.kill()
        one.start()
        assert sample(engine, SETTINGS, make_prompts())[0] == before[0]


def test_a_server_that_is_down_for_a_moment_is_waited_for():
    policy, lines = make_policy(), []
    with double_of(policy) as one:
        engine = engine_on(policy, one, say=lines.append)
        before = sample(engine, SETTINGS, make_prompts())
        one.kill()
        engine.say = lambda line: (lines.append(line), one.start())
        assert sample(engine, SETTINGS, make_prompts())[0] == before[0]
    assert len(lines) == 1 and "failed: Cannot connect to host" in lines[0] and "asked again for 20 s" in lines[0]


def test_the_rows_of_a_server_that_dies_go_to_the_other_one(folder, double, expected, tmp_path):
    with VLLMDouble(load_base(folder, "float32", "cpu")) as other:
        trained = remote(folder, tmp_path / "run", double, other, reward=Disturbs(5, other.kill))
        trained.train(PROMPTS)
    end_alike(tmp_path / "run", expected)
    assert [server.failing_since is None for server in trained.engine.pool.servers] == [True, False]


def test_a_server_that_hangs_is_dropped_and_its_rows_are_sampled_elsewhere():
    policy, lines = make_policy(), []
    with double_of(policy) as one, double_of(policy) as two:
        expected = sample(engine_on(policy, one), SETTINGS, make_prompts())
        two.instead = never
        engine = engine_on(policy, one, two, timeout=2.0, say=lines.append)
        assert sample(engine, SETTINGS, make_prompts())[0] == expected[0]
    assert lines == [f"the sampling server at {two.url} is dropped: it failed: no answer in time"]


def test_without_a_server_the_run_is_saved_and_can_be_resumed(folder, double, expected, tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(RunPaused) as paused:
        remote(folder, out, double, reward=Disturbs(5, double.kill), engine_timeout=3.0).train(PROMPTS)
    assert f"no sampling server is left: the one at {double.url} failed: Cannot connect" in str(paused.value)
    assert "The run was saved" in str(paused.value)
    assert f"the sampling server at {double.url} is dropped" in capsys.readouterr().out.replace("\n", " ")
    double.start()
    remote(folder, out, double, reward=Disturbs(), engine_timeout=9.0).train(PROMPTS, resume=out)
    end_alike(out, expected)


def test_an_answer_of_another_version_is_not_used():
    policy = make_policy()

    def stale(path, body, answer):
        return {**answer, "model": "policy-of-yesterday"} if path == vllm.COMPLETIONS else answer

    with double_of(policy) as one, double_of(policy, instead=stale) as two:
        expected, lines = sample(engine_on(policy, one), SETTINGS, make_prompts()), []
        engine = engine_on(policy, one, two, say=lines.append)
        assert sample(engine, SETTINGS, make_prompts())[0] == expected[0]
        assert (
            len(lines) == 1 and "is dropped: it cannot be used: it answered as 'policy-of-yesterday' when" in lines[0]
        )
        with pytest.raises(SamplerError, match=f"no sampling server is left: the one at {two.url} cannot be used"):
            sample(engine_on(policy, two), SETTINGS, make_prompts())


def test_a_server_that_forgets_adapters_is_dropped():
    policy = make_policy()

    def forget(path, body, answer):
        if path == vllm.LOAD:
            one.adapters.clear()
        return answer

    with (
        double_of(policy, instead=forget) as one,
        pytest.raises(SamplerError, match="does not know the adapter that it has just loaded"),
    ):
        sample(engine_on(policy, one), SETTINGS, make_prompts())


REQUEST = Request("policy-1", [5, 6], SamplingSettings(3), [1], seed=7)


def answer(ids=(7, 8, 1), logprobs=(-1.0, -2, 0.0), **changes):
    choice = {"token_ids": list(ids), "logprobs": {"token_logprobs": list(logprobs)}}
    return {"model": "policy-1", "choices": [choice], **changes}


@pytest.mark.parametrize("ids", [[7, 8, 1], [7, 8, 9], [1]])
def test_a_response_ends_with_an_end_token_or_at_its_longest(ids):
    assert vllm.read_completion(answer(ids, [-0.5] * len(ids)), REQUEST) == (ids, [-0.5] * len(ids))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "it answered as None"),
        (answer(model="policy-0"), "it answered as 'policy-0' when asked for 'policy-1'"),
        (answer(choices=[]), '"choices"'),
        (answer(choices=[3]), '"choices"'),
        (answer(choices=[{"text": "hi", "logprobs": None}]), '"token_ids"; vLLM has them from'),
        (answer(ids=[7, "8", 1]), '"token_ids"'),
        (answer(ids=[7, True, 1]), '"token_ids"'),
        (answer(choices=[{"token_ids": [1], "logprobs": None}]), '"token_logprobs" that are finite'),
        (answer(logprobs=[-1.0, None, -1.0]), '"token_logprobs" that are finite'),
        (answer(logprobs=[-1.0, float("-inf"), -1.0]), '"token_logprobs" that are finite'),
        (answer(logprobs=[-1.0, 0.5, -1.0]), '"token_logprobs" that are finite'),
        (answer(logprobs=[-1.0]), "has 3 tokens, but 1 log-probabilities"),
        (answer(ids=[], logprobs=[]), "has 0 tokens instead of 1 to 3"),
        (answer(ids=[7, 8, 9, 1], logprobs=[-1.0] * 4), "has 4 tokens instead of 1 to 3"),
        (answer(ids=[7, 8], logprobs=[-1.0] * 2), "does not end with an end token"),
        (answer(ids=[7, 1, 8], logprobs=[-1.0] * 3), "or goes on behind one"),
    ],
)
def test_an_answer_that_does_not_fit_the_request_is_refused(wrong, message):
    with pytest.raises(BadAnswer, match=message):
        vllm.read_completion(wrong, REQUEST)


def test_a_refusal_is_passed_on_in_the_server_s_words():
    policy, ids = make_policy(), torch.full((1, 9), 300)
    with (
        double_of(policy, longest=12) as one,
        pytest.raises(SamplerError, match="refuses a prompt of 9 tokens with up to 6 new ones: .* length is 12 tokens"),
    ):
        sample(engine_on(policy, one), SETTINGS, (ids, torch.ones_like(ids, dtype=torch.bool)))


def test_servers_that_do_not_answer_are_reported_with_all_other_problems_before_a_model_loads(double):
    double.instead = lambda path, body, answer: {"status": "ok"}
    urls = ["http://127.0.0.1:9", double.url]
    config = PPOConfig(model_name="/no/model", prompts="/no/prompts.txt", engine_urls=urls, **REMOTE)
    with pytest.raises(ConfigError) as error:
        PPOTrainer(config)
    text = str(error.value)
    assert "3 problems" in text and "/no/prompts.txt" in text
    assert "engine_urls: http://127.0.0.1:9 failed: Cannot connect to host 127.0.0.1:9" in text
    assert f'{double.url} failed: its answer has no "version", so it is not vLLM; start vLLM\'s server there' in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loads": False}, "does not load adapters while it runs; start it with --enable-lora, and with VLLM_ALLOW"),
        ({"largest_rank": 2}, "LoRA rank 4 is greater than max_lora_rank 2.* --max-lora-rank has to be lora_r or more"),
        ({"raw": True}, r"disagree by \d.* nats per token; start it with .* --logprobs-mode processed_logprobs"),
        ({"scale": 0.8}, r"disagree by \d.* nats per token; start it with the same base model and dtype"),
        ({"longest": 16}, "refuses a prompt of .* maximum context length is 16 tokens"),
    ],
)
def test_a_server_that_cannot_sample_for_the_run_is_refused_at_its_start(folder, tmp_path, options, message):
    with (
        VLLMDouble(load_base(folder, "float32", "cpu"), **options) as one,
        pytest.raises(SamplerError, match=message) as error,
    ):
        remote(folder, tmp_path / "run", one)
    assert one.url in str(error.value) and not (tmp_path / "run").exists()


def test_only_the_last_two_versions_are_kept(tmp_path):
    policy = make_policy()
    with double_of(policy) as one:
        engine = engine_on(policy, one, folder=tmp_path)
        for _ in range(4):
            with torch.no_grad():
                policy.parameters()[0] += 0.1
            for _ in range(3):  # nothing changes in between
                engine.update_weights(policy)
        (run,) = tmp_path.iterdir()
        kept = sorted(place.name for place in run.iterdir())
        assert kept == sorted(one.adapters) and [name[-2:] for name in kept] == ["-4", "-5"]
        assert one.most_adapters == 3  # while one is replaced
        other = engine_on(policy, one, folder=tmp_path)
        assert other.adapter.name not in kept and other.adapter.name.endswith("-1")
        del engine, other
        gc.collect()
        assert list(tmp_path.iterdir()) == []


def test_what_is_sent_names_all_that_changes_the_distribution():
    policy = make_policy()
    with double_of(policy) as one:
        sample(engine_on(policy, one), SETTINGS, make_prompts())
    bodies = [body for path, body in one.seen if path == vllm.COMPLETIONS]
    (ids, mask) = make_prompts()
    assert sorted(body["prompt"] for body in bodies) == sorted(row[m].tolist() for row, m in zip(ids, mask))
    assert len({body["seed"] for body in bodies}) == len(bodies)
    assert all(body["stop_token_ids"] == EOS and body["temperature"] == 1.3 for body in bodies)
    assert json.loads(json.dumps(bodies[0])) == bodies[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine_urls": None}, "engine is vllm but engine_urls is not set"),
        ({"engine_urls": []}, "must name different servers, such as http://host:8000"),
        ({"engine_urls": ["http://a:1", "http://a:1"]}, "must name different servers"),
        ({"engine_urls": ["a:1"]}, "must name different servers"),
        ({"engine": "slots"}, "engine_urls is set but engine is slots; set engine to vllm or sglang"),
        ({"engine": "auto", "engine_urls": None, "engine_folder": "x"}, "engine_folder is set but engine is auto"),
        (
            {"top_k": 50, "top_p": 0.95},
            "top_k is 50 and top_p is 0.95 but engine is vllm.* set top_k to 0 and top_p to 1",
        ),
        ({"lora_r": 0}, "lora_r is 0 but engine is vllm, which gets the policy as an adapter"),
        ({"eval_temperature": 0.005}, "eval_temperature is 0.005 but engine is vllm, which samples at 0 or at 0.01"),
        ({"rollout_slots": 8}, "rollout_slots is set but engine is vllm"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        PPOConfig(**{**REMOTE, "engine_urls": ["http://a:1"], **settings})


def test_batches_sampled_ahead_have_the_weights_of_their_time(folder, double, tmp_path):
    """With two batches ahead, one waits for its turn while the adapter changes."""
    settings = dict(max_staleness=2, eval_every=1, steps=6)
    spec = f"{__file__}:SeededEngine"
    make(folder, tmp_path / "own", length_reward, **{**REMOTE, **settings, "engine": spec}).train(PROMPTS)
    trained = remote(folder, tmp_path / "run", double, **settings)
    trained.train(PROMPTS)
    end_alike(tmp_path / "run", tmp_path / "own")
    assert trained.engine.is_remote and len(double.adapters) == 4  # the present one, and three that may be in use


def test_a_policy_without_an_adapter_is_refused():
    policy = make_policy(full=True)
    with (
        double_of(policy) as one,
        pytest.raises(ModelError, match="all weights are trained, but servers .* set lora_r"),
    ):
        engine_on(policy, one)


def test_a_cut_vocabulary_is_refused_before_anything_is_sent():
    policy = make_policy()
    with double_of(policy) as one:
        with pytest.raises(ConfigError, match="top_k is 20"):
            sample(engine_on(policy, one), SamplingSettings(4, top_k=20), make_prompts())
        assert not [path for path, _ in one.seen if path == vllm.COMPLETIONS]


def test_the_stand_in_refuses_what_the_schema_does_not_have():
    with double_of(make_policy()) as one:
        good = vllm.write_completion(Request("policy-1", [5], SETTINGS, [1], 7))
        for wrong in ({**good, "extra": 1}, {**good, "seed": "7"}, {**good, "max_tokens": 2.0}, {"model": "policy-1"}):
            with pytest.raises(Error) as error:
                one.post(vllm.COMPLETIONS, wrong)
            assert error.value.status == 400
        with pytest.raises(Error, match="does not exist") as error:
            one.post(vllm.COMPLETIONS, good)
        assert error.value.status == 404
