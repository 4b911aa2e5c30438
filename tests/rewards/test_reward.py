"""The protocol: what a reward is given and what it returns; custom rewards."""

import json
import math

import pytest
import torch

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.errors import NumericalFault, RewardError
from ppo_lm.rewards import REWARDS, FunctionReward, Responses, Reward, RewardComputer, Scores, WeightedSum, load_reward
from tests.conftest import make_pairs, opinions

pytestmark = pytest.mark.fast

PROMPTS = ["My boss yelled. TL;DR:", "POST: I moved out. TL;DR:"]

OWN_REWARD = '''
from ppo_lm.rewards import Reward, Scores


class Quality(Reward):
    """Words of the prompt count for a text, characters beyond a limit against it."""

    name = "quality"
    needs_columns = ["limit"]

    def make_ready(self, context):
        self.device = context.device  # its own model would be loaded onto it here

    def score(self, responses):
        texts, limits = responses.texts, responses.columns["limit"]
        copied = [sum(word in text for word in prompt.split()) for prompt, text in zip(responses.prompts, texts)]
        excess = [float(max(len(text) - limit, 0)) for text, limit in zip(texts, limits)]
        total = [c - 0.1 * e for c, e in zip(copied, excess)]
        return Scores.of(total, {"copied": copied, "excess": excess})
'''


def test_a_custom_reward_is_loaded_from_a_file_and_its_parts_are_metrics(folder, tmp_path):
    (tmp_path / "mine.py").write_text(OWN_REWARD)
    rows = [{"prompt": prompt, "limit": limit} for prompt, limit in zip(PROMPTS, (2, 3))]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    named = dict(reward=f"{tmp_path}/mine.py:Quality", prompts=str(tmp_path / "prompts.jsonl"))
    trainer = PPOTrainer(PPOConfig(model_name=folder, batch_size=2, mini_batches=1, max_new_tokens=8, **named))
    results = trainer.ppo_step(trainer.prompts)
    copied = [sum(word in text for word in p.split()) for p, text in zip(PROMPTS, results["generated_texts"])]
    excess = [max(len(text) - limit, 0) for text, limit in zip(results["generated_texts"], (2, 3))]
    assert results["rewards"] == pytest.approx([c - 0.1 * e for c, e in zip(copied, excess)])
    assert results["reward/quality/copied"] == pytest.approx(sum(copied) / 2)
    assert results["reward/quality/excess"] == pytest.approx(sum(excess) / 2) != 0
    assert results["reward/quality"] == results["score"]
    assert list(results["reward_parts"]) == ["quality", "quality/copied", "quality/excess"]


def test_a_missing_column_of_a_custom_reward_is_reported_before_any_model_loads(tmp_path):
    (tmp_path / "mine.py").write_text(OWN_REWARD)
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    config = PPOConfig(
        model_name="nobody/none", reward=f"{tmp_path}/mine.py:Quality", prompts=str(tmp_path / "prompts.txt")
    )
    with pytest.raises(
        RewardError,
        match="reward quality needs 'limit', but the prompts .* have no other column; .* gets prompts, completions",
    ):
        PPOTrainer(config)


def test_a_registered_reward_is_named_with_its_arguments():
    try:

        @REWARDS.register("of_one_word")
        def of_one_word(word="I"):
            return lambda completions: [float(word in completion) for completion in completions]

        reward = load_reward("of_one_word(word='boss')")
        assert (reward.name, opinions(reward, PROMPTS, [" my boss", " I quit"])) == ("of_one_word", [1.0, 0.0])
        with pytest.raises(RewardError, match="unexpected keyword argument 'words'"):
            load_reward("of_one_word(words=3)")
        with pytest.raises(RewardError, match="there is no such function, .* a built-in .*, remote, of_one_word"):
            load_reward("no_such_reward")
    finally:
        REWARDS._parts.pop("of_one_word")


class Seen(Reward):
    """Keeps what it was given."""

    name = "seen"

    def score(self, responses):
        self.responses = responses
        return Scores.of([0.5] * len(responses))


def test_reward_and_monitor_are_given_the_same_responses_with_the_sampled_tokens(folder):
    reward, monitor = Seen(), Seen()
    config = PPOConfig(model_name=folder, batch_size=2, mini_batches=1, max_new_tokens=8)
    results = PPOTrainer(config, reward=reward, monitor=monitor).ppo_step(PROMPTS, {"id": [7, 8]})
    given, also = reward.responses, monitor.responses
    assert (given.prompts, given.texts, given.columns) == (also.prompts, also.texts, also.columns)
    assert given.sa_pairs is also.sa_pairs
    assert (given.prompts, given.texts, given.columns["id"]) == (PROMPTS, results["generated_texts"], [7, 8])
    pairs = given.sa_pairs
    assert given.columns["terminated"] == pairs.terminated.tolist()
    assert given.columns["completion_ids"] == [ids[:n].tolist() for ids, n in zip(pairs.action_ids, pairs.lengths)]


def test_completion_ids_are_the_sampled_tokens_even_with_others_in_between():
    pairs = make_pairs(rows=3, actions=5)
    mask = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    responses = Responses.sampled(["p"] * 3, ["t"] * 3, {}, pairs.with_columns(action_mask=mask), tokenizer=None)
    ids = pairs.action_ids.tolist()
    assert responses.columns["completion_ids"] == [[ids[0][0], ids[0][2], ids[0][3]], [ids[1][1]], ids[2]]
    assert responses.columns["terminated"] == [True, False, True]


def test_responses_of_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="Responses has 1 'texts' for 2 prompts"):
        Responses(PROMPTS, ["a"])
    with pytest.raises(ValueError, match="Responses has 3 'id' for 2 prompts"):
        Responses(PROMPTS, ["a", "b"], {"id": [1, 2, 3]})


class Returning(Reward):
    name = "own"

    def __init__(self, result):
        self.result = result

    def score(self, responses):
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        ([0.5, 0.5], RewardError, r"reward own returned \[0.5, 0.5\]; it must return Scores"),
        (Scores.of([0.5]), RewardError, r"returned 'total' of shape \(1,\) for 2 responses"),
        (Scores.of([0.5, 1.0], {"a": [1.0]}), RewardError, r"returned 'a' of shape \(1,\) for 2 responses"),
        (Scores.of([0.5, math.inf]), NumericalFault, "returned an infinite number in 'total'"),
        (Scores.of([0.5, 1.0], {"a": [1.0, -math.inf]}), NumericalFault, "returned an infinite number in 'a'"),
        (KeyError("lexicon"), RewardError, "reward own raised KeyError on a batch of 2 responses: 'lexicon'"),
        (RewardError("the service is down"), RewardError, "^the service is down$"),
    ],
)
def test_an_invalid_answer_of_a_reward_is_reported_in_one_sentence(result, error, message):
    with pytest.raises(error, match=message):
        RewardComputer(Returning(result)).compute_rewards(Responses(PROMPTS, ["a", "b"]))


def test_a_numerical_fault_has_the_batch_in_which_it_was_found():
    pairs = make_pairs(rows=2)
    responses = Responses.sampled(PROMPTS, ["a", "b"], {}, pairs, tokenizer=None)
    with pytest.raises(NumericalFault) as fault:
        RewardComputer(lambda completions: [math.nan, 1.0]).compute_rewards(responses)
    assert fault.value.batch is pairs


def test_a_class_that_cannot_be_made_is_reported_in_one_sentence(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from ppo_lm.rewards import Reward\n\nclass Mine(Reward):\n    def __init__(self, size):\n        pass\n"
        "    def score(self, responses):\n        pass\n"
    )
    with pytest.raises(RewardError, match="reward Mine raised TypeError when made without arguments: .*'size'"):
        load_reward(f"{tmp_path}/mine.py:Mine")


def test_sums_of_sums_by_hand():
    """Parts keep their names, and each number is (B,): 2 · (a − 3 · b) + c, with c silent on the second response."""
    a = FunctionReward(lambda completions: [1.0, 2.0], "a")
    b = FunctionReward(lambda completions: [0.5, -1.0], "b")
    c = FunctionReward(lambda completions: [10.0, None], "c")
    scores = WeightedSum([WeightedSum([a, b], [1.0, -3.0]), c], [2.0, 1.0]).score(Responses(PROMPTS, ["x", "y"]))
    assert scores.total.tolist() == scores.plain.tolist() == [2 * (1 - 1.5) + 10, 2 * (2 + 3)]
    parts = {name: values.tolist() for name, values in scores.parts.items()}
    assert parts.pop("c")[0] == 10 and math.isnan(scores.parts["c"][1])
    assert parts == {"weighted_sum": [-0.5, 5.0], "weighted_sum/a": [1.0, 2.0], "weighted_sum/b": [0.5, -1.0]}
    assert {values.dtype for values in (scores.total, *scores.parts.values())} == {torch.float32}


def test_normalised_scores_are_trained_on_and_plain_ones_reported():
    lengths = FunctionReward(lambda completions: [100.0, 102.0], "length")
    scores = WeightedSum([lengths], [3.0], clip=0.5, normalise=True).score(Responses(PROMPTS, ["x", "y"]))
    assert scores.total.tolist() == [-1.5, 1.5]  # ±1 clipped to ±0.5, times 3
    assert scores.plain.tolist() == [300.0, 306.0]
    clipped = WeightedSum([lengths], [3.0], clip=101.0).score(Responses(PROMPTS, ["x", "y"]))
    assert clipped.total.tolist() == clipped.plain.tolist() == [300.0, 303.0]
