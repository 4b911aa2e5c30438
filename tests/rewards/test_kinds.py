"""Async functions, one-sample functions, other projects' functions, built-ins, several rewards at once, classifiers."""

import asyncio
import importlib.util
import json
import math
import time

import pytest
import torch

from ppo_lm.errors import ModelError, NumericalFault, RewardError, UserError
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.rewards import (
    DEFAULT_REWARD,
    ClassifierReward,
    FunctionReward,
    Responses,
    RewardComputer,
    RewardContext,
    combine,
    load_reward,
    unique_names,
)
from tests.conftest import make_base, opinions

pytestmark = pytest.mark.fast

PROMPTS, COMPLETIONS = ["p", "q"], ["one", "two words"]
ASK = [{"role": "user", "content": "Why?"}]


def test_none_is_no_opinion():
    assert opinions(FunctionReward(lambda completions: [None, 2]), PROMPTS, COMPLETIONS) == [None, 2.0]


def test_an_async_function_that_judges_its_batch_at_once_takes_one_calls_time():
    async def judge(completions, **columns):
        async def one(completion):
            await asyncio.sleep(0.2)
            return float(len(completion))

        return await asyncio.gather(*map(one, completions))

    started = time.perf_counter()
    assert opinions(FunctionReward(judge), ["p"] * 32, ["abc"] * 32) == [3.0] * 32
    assert time.perf_counter() - started < 1


def test_an_async_function_of_one_sample_is_called_for_all_at_once():
    async def judge(prompt, completion, weight):
        await asyncio.sleep(0.2)
        return len(completion) * weight

    started = time.perf_counter()
    assert opinions(FunctionReward(judge), ["p"] * 32, ["abc"] * 32, {"weight": list(range(32))}) == [
        3.0 * i for i in range(32)
    ]
    assert time.perf_counter() - started < 1
    assert FunctionReward(judge).missing_columns([]) == ["weight"]


def test_async_functions_run_where_a_loop_is_already_running():
    async def judge(completions):
        return [1.0] * len(completions)

    async def notebook():
        return opinions(FunctionReward(judge), PROMPTS, COMPLETIONS)

    assert asyncio.run(notebook()) == [1.0, 1.0]


def test_a_plain_function_of_one_sample():
    assert opinions(FunctionReward(lambda completion: len(completion)), PROMPTS, COMPLETIONS) == [3.0, 9.0]


def test_reward_functions_of_trl_work_unchanged():
    """From TRL's own package, as a GRPO user has them."""
    from trl.rewards import get_soft_overlong_punishment, think_format_reward

    texts = ["<think>\nhm\n</think>\n4", "4"]
    assert opinions(FunctionReward(think_format_reward), [ASK, ASK], texts) == [1.0, 0.0]
    overlong = FunctionReward(get_soft_overlong_punishment(max_completion_len=4, soft_punish_cache=2))
    assert opinions(overlong, PROMPTS, COMPLETIONS, {"completion_ids": [[1, 2], [1, 2, 3, 4, 5]]}) == [0.0, -1.0]


def test_columns_of_the_data_arrive_by_name_and_in_kwargs():
    def right_number(completions, ground_truth, **kwargs):
        assert set(kwargs) == {"prompts", "terminated"}
        return [float(truth in completion) for completion, truth in zip(completions, ground_truth)]

    columns = {"ground_truth": ["4", "5"], "terminated": [True, True]}
    assert opinions(FunctionReward(right_number), PROMPTS, ["It is 4.", "It is 4."], columns) == [1.0, 0.0]


def test_several_rewards_are_weighted_and_kept_apart():
    computer = RewardComputer(
        [lambda completions: [1.0, 3.0], FunctionReward(lambda completions: [4.0, None], "kind")], weights=[1.0, 0.5]
    )
    scores = computer.compute_rewards(Responses(PROMPTS, COMPLETIONS))
    assert scores.total.tolist() == [3.0, 3.0]
    assert list(scores.parts) == ["<lambda>", "kind"]
    assert scores.parts["<lambda>"].tolist() == [1.0, 3.0] and math.isnan(scores.parts["kind"][1])


def test_combining_by_hand():
    scores = torch.tensor([[1.0, 3.0, 5.0], [10.0, math.nan, -10.0]])
    assert combine(scores).tolist() == [11.0, 3.0, -5.0]
    assert combine(scores, [1.0, 0.5]).tolist() == [6.0, 3.0, 0.0]
    assert combine(scores, clip=4.0).tolist() == [5.0, 3.0, 0.0]
    root = math.sqrt(1.5)  # of (−2, 0, 2) over its deviation √(8/3)
    assert combine(scores, normalise=True).tolist() == pytest.approx([1 - root, 0.0, root - 1], abs=1e-6)
    assert combine(scores, normalise=True, clip=1.0).tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    assert combine(torch.tensor([[2.0, 2.0]]), normalise=True).tolist() == [0.0, 0.0]
    with pytest.raises(RewardError, match=r"no reward has an opinion .* on completion 1 of 2"):
        combine(torch.tensor([[1.0, math.nan]]))
    assert unique_names(["a", "b", "a", "a"]) == ["a", "b", "a_2", "a_3"]
    assert unique_names(["a", "a_2", "a"]) == ["a", "a_2", "a_3"]


@pytest.mark.parametrize(
    ("spec", "completion", "columns", "expected"),
    [
        ("length_target(words=4)", "one two three", {}, 0.75),
        ("length_target(words=4)", "one two three four five six seven eight nine", {}, 0.0),
        ("matches(pattern='^Answer: .*$')", "Answer: 4\nSure", {}, 1.0),
        ("matches(pattern='^Answer')", "The Answer", {}, 0.0),
        ("repetition(n=2)", "a b a b a b", {}, 2 / 5 - 1),
        ("repetition", "all of it new", {}, 0.0),
        ("sentiment", "VADER is smart, handsome, and funny.", {}, 0.8316),  # as its authors print it
        ("sentiment", "Today SUX!", {}, -0.5461),
        ("rouge(column='reference', key='rouge1')", "the cat sat", {"reference": ["the cat ran"]}, 2 / 3),
        ("rouge(column='reference')", "the cat", {"reference": [None]}, None),
        ("similarity(column='reference')", "A cat sat.", {"reference": ["A cat sat."]}, 1.0),
    ],
)
def test_built_ins_by_hand(spec, completion, columns, expected):
    assert opinions(load_reward(spec), ["p"], [completion], columns) == (
        [None] if expected is None else [pytest.approx(expected, abs=1e-4)]
    )


def test_similarity_puts_what_means_the_same_above_what_does_not():
    scores = opinions(
        load_reward("similarity(column='reference')"),
        ["p"] * 3,
        ["The film was great.", "I loved the movie.", "Tax law is dull."],
        {"reference": ["I loved the movie."] * 3},
    )
    assert scores[1] == pytest.approx(1.0, abs=1e-5)
    assert 1 > scores[0] > 0.5 > scores[2]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("length_target(words=0)", "words is 0; it must be at least 1"),
        ("length_target(30)", "write each value as name=value"),
        ("length_target(size=3)", "unexpected keyword argument 'size'"),
        ("length_target(words=)", "cannot be made with these arguments"),
        ("matches(pattern='(')", "cannot be made with these arguments"),
        ("rouge(key='rouge9')", "must be one of rouge1, rouge2, rougeL"),
        ("sentimant", "there is no such function, folder or built-in; give a function .*sentiment"),
    ],
)
def test_a_built_in_that_cannot_be_made_is_reported_in_one_sentence(spec, message):
    with pytest.raises(RewardError, match=message):
        load_reward(spec)


def test_a_built_in_names_the_column_it_lacks():
    for spec in ("rouge(column='summary')", "similarity(column='summary')"):
        assert load_reward(spec).missing_columns(["facts"]) == ["summary"]
        assert load_reward(spec).missing_columns(["facts", "summary"]) == []


def make_classifier(folder, labels):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    from ppo_lm.base_setup import EMBEDDED_MODEL

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=0,
        num_labels=labels,
        initializer_range=0.3,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def ready(folder) -> ClassifierReward:
    """The reward that the folder's name stands for, loaded."""
    reward = load_reward(str(folder))
    reward.make_ready(
        RewardContext(torch.device("cpu"), find_base=lambda folder: make_base(), budget=MemoryBudget(1024))
    )
    return reward


@pytest.mark.parametrize("labels", [1, 2])
def test_a_classifier_scores_as_transformers_does_each_text_alone(tmp_path, labels):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    make_classifier(tmp_path / "judge", labels)
    scorer = ready(tmp_path / "judge")
    assert isinstance(scorer, ClassifierReward) and scorer.name == "judge"
    prompts, completions = (
        ["TL;DR:", "My boss", "POST: I moved out. TL;DR:"],
        [" I am upset.", " yelled at me last week.", " Hm"],
    )
    scores = opinions(scorer, prompts, completions)
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "judge"),
        AutoTokenizer.from_pretrained(tmp_path / "judge"),
    )
    for score, prompt, completion in zip(scores, prompts, completions):
        logits = model(**tokenizer(prompt + completion, return_tensors="pt")).logits[0].tolist()
        assert score == pytest.approx(logits[0] if labels == 1 else logits[1] - logits[0], abs=1e-5)


def test_a_classifier_that_is_not_a_reward_is_reported_in_one_sentence(tmp_path):
    make_classifier(tmp_path / "three", 3)
    with pytest.raises(ModelError, match="has 3 labels; a reward needs one, or two"):
        ready(tmp_path / "three")
    make_classifier(tmp_path / "one", 1)
    (tmp_path / "one" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded as a sequence classifier"):
        ready(tmp_path / "one")


def test_a_classifier_reads_the_end_of_what_is_too_long_for_it(tmp_path):
    make_classifier(tmp_path / "judge", 1)
    scorer = ready(tmp_path / "judge")
    tokenizer = scorer._loaded[0]
    prompt = "My boss yelled at me. " * 40
    end = tokenizer.decode(tokenizer(prompt + " I left.")["input_ids"][-64:])
    assert opinions(scorer, [prompt], [" I left."]) == pytest.approx(opinions(scorer, [""], [end]), abs=1e-5)


def test_a_classifier_with_damaged_weights_is_a_numerical_fault(tmp_path):
    make_classifier(tmp_path / "judge", 1)
    scorer = ready(tmp_path / "judge")
    with torch.no_grad():
        scorer._loaded[1].score.weight.fill_(math.nan)
    with pytest.raises(NumericalFault, match="gave a score that is NaN or infinite"):
        opinions(scorer, ["p"], ["c"])


def test_a_missing_folder_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(RewardError, match="there is no such function, folder or built-in"):
        load_reward("runs/reward")
    with pytest.raises(RewardError, match="monitor 'sentimant': there is no such function"):
        load_reward("sentimant", "monitor")


def test_a_function_can_keep_a_client_between_batches():
    lock = asyncio.Semaphore(1)

    async def judge(completion):
        async with lock:
            await asyncio.sleep(0.001)
        return 1.0

    scorer = FunctionReward(judge)
    assert [opinions(scorer, ["p"] * 4, ["c"] * 4) for _ in range(3)] == [[1.0] * 4] * 3


def test_the_default_reward_reads_conversations():
    from ppo_lm.rewards import tldr_heuristics

    post = "My boss yelled at me last week. I quit."
    talk = [{"role": "user", "content": post}]
    assert opinions(load_reward(DEFAULT_REWARD), [talk], ["My boss yelled, so I quit."]) == tldr_heuristics(
        [post], ["My boss yelled, so I quit."]
    )


def test_a_chat_reaches_the_classifier_by_its_own_template(tmp_path):
    make_classifier(tmp_path / "judge", 1)
    with pytest.raises(RewardError, match="has no chat template"):
        opinions(ready(tmp_path / "judge"), [ASK], ["Because."])
    file = tmp_path / "judge" / "tokenizer_config.json"
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template}))
    scorer = ready(tmp_path / "judge")
    assert opinions(scorer, [ASK], ["Because."]) == pytest.approx(
        opinions(scorer, ["user: Why?\nassistant:"], [" Because.\n"]), abs=1e-5
    )


@pytest.mark.parametrize(
    ("spec", "package", "extra"),
    [
        ("sentiment", "vaderSentiment", "sentiment"),
        ("rouge", "torchmetrics", "rouge"),
        ("http://localhost", "aiohttp", "remote"),
    ],
)
def test_a_package_that_is_not_installed_is_named_before_a_run(spec, package, extra, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(
        UserError, match=rf"needs the package {package}; install it with `pip install 'ppo-lm\[{extra}\]'`"
    ):
        load_reward(spec)
