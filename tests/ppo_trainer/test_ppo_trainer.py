import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.base_setup import make_lora_config
from ppo_lm.embedded.posts import generate_posts
from ppo_lm.errors import ConfigError, DataError, RewardError
from ppo_lm.ppo_trainer.metrics import describe_importance, describe_rollout
from ppo_lm.rewards import ModelReward, Responses, RewardComputer
from ppo_lm.run.folder import RUN_FILES
from tests.conftest import make_base, make_pairs
from tests.ppo_trainer.conftest import FOUR_PROMPTS as PROMPTS
from tests.ppo_trainer.conftest import length_reward, trainer


@pytest.mark.parametrize(
    "settings", [{}, {"lora_r": 0}, {"whiten_rewards": True, "value_target": "returns", "kl_estimator": "k3"}], ids=str
)
def test_a_step_returns_what_it_promises_and_moves_both_models(folder, settings):
    trained = trainer(folder, learning_rate=1e-2, **settings)
    before = [[p.detach().clone() for p in model.parameters()] for model in (trained.roles.policy, trained.roles.value)]
    results = trained.ppo_step(PROMPTS)
    assert len(results["generated_texts"]) == len(results["rewards"]) == 4
    assert results["rewards"] == pytest.approx(length_reward(PROMPTS, results["generated_texts"]))
    assert results["reward_parts"] == {"length_reward": results["rewards"]}
    numbers = {
        name: value for name, value in results.items() if name not in ("generated_texts", "rewards", "reward_parts")
    }
    assert all(isinstance(value, float) and math.isfinite(value) for value in numbers.values()), numbers
    assert results["kl"] == pytest.approx(0, abs=1e-4)  # the first rollout comes from the reference itself
    for weights, model in zip(before, (trained.roles.policy, trained.roles.value)):
        assert any(not torch.equal(old, new) for old, new in zip(weights, model.parameters()))


def test_the_same_seed_gives_the_same_run_and_another_seed_another(folder):
    def run(seed):
        trained = trainer(folder, seed=seed)
        steps = [trained.ppo_step(PROMPTS) for _ in range(2)]
        return [(step["generated_texts"], step["policy_loss"], step["value_loss"]) for step in steps]

    first, again, other = run(0), run(0), run(1)
    assert first == again
    assert next(texts for texts, *_ in first) != next(
        texts for texts, *_ in other
    )  # sampled before anything was trained
    assert all(one[1:] != two[1:] for one, two in zip(first, other))


def test_ppo_raises_the_reward_of_a_real_model():
    """Reward summaries that ask a question: most do not at first, nearly all must after eight small steps."""

    def asks(prompts, completions):
        return [float("?" in completion) for completion in completions]

    config = PPOConfig(
        model_name="embedded",
        batch_size=32,
        micro_batch_tokens=602,
        max_new_tokens=60,
        top_k=0,
        top_p=1.0,
        gamma=1.0,
        kl_coef=0.0,
        steps=8,
        ppo_epochs=2,
        mini_batches=2,
        learning_rate=2e-3,
        value_learning_rate=2e-3,
    )
    posts = [post.prompt for post in generate_posts(32 * 8, seed=11)]
    trained = PPOTrainer(config, reward=asks)
    scores = [trained.ppo_step(posts[start : start + 32])["score"] for start in range(0, len(posts), 32)]
    assert scores[0] < 0.5
    assert sum(scores[-2:]) / 2 > scores[0] + 0.25


def test_train_writes_the_record_of_the_run(folder, tmp_path, capsys):
    out = tmp_path / "run"
    trained = PPOTrainer(
        PPOConfig(
            model_name=folder,
            batch_size=4,
            steps=3,
            eval_prompts=2,
            eval_every=2,
            samples_every=2,
            output_dir=str(out),
            max_new_tokens=5,
        ),
        reward=length_reward,
        monitor=lambda completions, terminated, **_: [1.0] * len(completions),
    )
    evaluations = trained.train(PROMPTS * 3)
    assert [e.step for e in evaluations["sampled"]] == [0, 2, 3] == [e.step for e in evaluations["near_greedy"]]
    written = {path.name for path in out.iterdir()}
    assert written <= set(RUN_FILES)
    assert written == {
        "config.yaml",
        "data_report.json",
        "environment.json",
        "metrics.jsonl",
        "samples.jsonl",
        "held_out.jsonl",
        "tokens",
        "learning_curve.png",
        "adapter",
        "merged",
        "value",
        "checkpoints",
        "trained_prompts.json",
    }
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics if "evaluation" not in m] == [1, 2, 3]
    assert sum("evaluation" in m for m in metrics) == 6
    assert all(("kl" in m) == (m.get("evaluation") != "near_greedy") for m in metrics)
    assert all(m["monitor"] == 1.0 for m in metrics)
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert {s["step"] for s in samples} == {2, 3} and len(samples) == 8  # every second step, and the last
    assert (out / "learning_curve.png").read_bytes()[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert "length" in printed and "left" in printed and "before" in printed and "after" in printed


def test_evaluating_changes_nothing_in_training(folder, tmp_path):
    def losses(**settings):
        out = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        trainer(folder, output_dir=str(out), max_new_tokens=5, save_merged=False, **settings).train(PROMPTS * 3)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [row["policy_loss"] for row in rows if "evaluation" not in row]

    assert losses(eval_prompts=2, eval_every=1) == losses(eval_prompts=2)


def test_prompts_that_do_not_fit_are_all_named(folder):
    long = "word " * 200
    with pytest.raises(
        DataError,
        match=r"prompt 0 has \d+ tokens, more than 118: the model's context of 128 minus max_new_tokens 10; prompt 1 "
        "is empty; prompt 3 has",
    ):
        trainer(folder).ppo_step([long, "", "TL;DR:", long])
    with pytest.raises(DataError, match="none can be used: row 1 has"):
        trainer(folder, eval_prompts=0).train([long])
    with pytest.raises(DataError, match="prompts must be a non-empty list of texts, .*; got 'TL;DR:'"):
        trainer(folder).ppo_step("TL;DR:")


def test_a_bad_reward_stops_the_step_before_any_training(folder):
    trained = trainer(folder, reward=lambda prompts, completions: [1.0])
    before = [p.detach().clone() for p in trained.roles.policy.parameters()]
    with pytest.raises(RewardError, match="returned 1 scores for 4 completions"):
        trained.ppo_step(PROMPTS)
    assert all(torch.equal(old, new) for old, new in zip(before, trained.roles.policy.parameters()))


def test_a_batch_that_cannot_be_trained_on_is_refused_before_it_is_sampled(folder):
    with pytest.raises(DataError, match="there are 2 prompts but mini_batches is 4"):
        trainer(folder, mini_batches=4).ppo_step(PROMPTS[:2])
    with pytest.raises(DataError, match="column 'facts' has 1 values for 4 prompts"):
        trainer(folder).ppo_step(PROMPTS, {"facts": [1]})
    for prompts in ([], "TL;DR:", [1, 2]):
        with pytest.raises(DataError, match="prompts must be a non-empty list of texts"):
            trainer(folder).train(prompts)


def test_a_function_that_needs_a_column_the_prompts_lack_is_named_before_any_model_loads(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("one\ntwo\n")
    with pytest.raises(RewardError, match="monitor gold needs 'facts', but the prompts .* have no other column"):
        PPOTrainer(PPOConfig(model_name="nobody/none", prompts=str(file), monitor="ppo_lm.embedded.gold:gold"))


def test_an_output_folder_that_cannot_be_made_is_named_before_any_model_loads(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file; choose a folder"):
        PPOTrainer(PPOConfig(model_name="nobody/none", output_dir=str(tmp_path / "file" / "run")))


def test_train_without_prompts(folder):
    with pytest.raises(ConfigError, match="prompts is not set"):
        trainer(folder).train()


def test_what_the_config_names_is_checked_before_any_model_loads_and_all_at_once(tmp_path):
    with pytest.raises(RewardError, match="there is no module 'nowhere'"):
        PPOTrainer(PPOConfig(model_name="nobody/none", reward="nowhere:f"))
    with pytest.raises(ConfigError) as caught:
        PPOTrainer(
            PPOConfig(
                model_name="nobody/none",
                reward=str(tmp_path / "rm"),
                monitor="nowhere:f",
                prompts=str(tmp_path / "none.txt"),
            )
        )
    for part in (
        "3 problems",
        "there is no such function, folder or built-in",
        "there is no module 'nowhere'",
        "none.txt': there is no such file",
    ):
        assert part in str(caught.value)


def test_a_run_never_overwrites_another(folder, tmp_path):
    def run():
        trainer(
            folder, output_dir=str(tmp_path / "run"), max_new_tokens=3, eval_prompts=0, steps=1, save_merged=False
        ).train(PROMPTS)

    run()
    first = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(ConfigError, match="already holds a run"):
        run()
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == first


def test_with_no_reward_named_the_tldr_scorer_scores(folder):
    from ppo_lm.rewards import tldr_heuristics

    results = trainer(folder, reward=None).ppo_step(PROMPTS)
    assert results["rewards"] == pytest.approx(tldr_heuristics(PROMPTS, results["generated_texts"]))


def test_the_embedded_reward_model_scores_texts_as_it_scores_their_tokens():
    trained = PPOTrainer(PPOConfig(model_name="embedded", reward="embedded", max_new_tokens=60))
    pairs, texts = trained.generator.generate_sequences([f"SUBREDDIT: r/life {p}" for p in PROMPTS])
    assert pairs.terminated.all()
    prompts = [f"SUBREDDIT: r/life {p}" for p in PROMPTS]
    tokens = Responses.sampled(prompts, texts, {}, pairs, trained.base.tokenizer)
    from_tokens = trained.reward_computer.compute_rewards(tokens).total
    from_texts = trained.reward_computer.compute_rewards(Responses(prompts, texts)).total
    torch.testing.assert_close(from_tokens, from_texts, rtol=0, atol=1e-4)


def test_several_rewards_are_separate_columns_whose_weighted_sum_is_the_score(folder, tmp_path):
    def brevity(completions):
        return [-len(c) / 10 for c in completions]

    config = PPOConfig(
        model_name=folder,
        batch_size=4,
        steps=1,
        eval_prompts=0,
        reward_weights=[1, 0.5],
        output_dir=str(tmp_path / "run"),
        samples_every=1,
        save_merged=False,
    )
    PPOTrainer(config, reward=[length_reward, brevity]).train(PROMPTS)
    metrics = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert metrics["score"] == pytest.approx(
        metrics["reward/length_reward"] + 0.5 * metrics["reward/brevity"], abs=1e-6
    )
    assert metrics["reward/length_reward"] == pytest.approx(-metrics["reward/brevity"], abs=1e-6) != 0
    for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines():
        sample = json.loads(line)
        assert sample["score"] == pytest.approx(
            sample["rewards"]["length_reward"] + 0.5 * sample["rewards"]["brevity"], abs=1e-5
        )
    with pytest.raises(ConfigError, match="reward_weights has 2 numbers for 1 rewards"):
        PPOTrainer(config, reward=length_reward)


def test_normalised_rewards_are_reported_as_they_are(folder, tmp_path):
    config = PPOConfig(
        model_name=folder,
        batch_size=4,
        steps=1,
        eval_prompts=2,
        reward_normalise=True,
        reward_clip=2,
        output_dir=str(tmp_path / "run"),
        save_merged=False,
    )
    long = lambda completions: [100.0 + len(c) for c in completions]  # noqa: E731
    evaluations = PPOTrainer(config, reward=long).train(PROMPTS * 2)
    assert evaluations["sampled"][0].score > 100
    step = next(
        row
        for row in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
        if "evaluation" not in row
    )
    assert (
        step["score"] == pytest.approx(step["reward/<lambda>"], rel=1e-6)
        and step["score"] > 100
        and step["score_std"] > 0
    )
    samples = [json.loads(line)["score"] for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert sum(samples) == pytest.approx(0, abs=1e-4) and max(map(abs, samples)) <= 2


def test_a_text_that_did_not_end_is_scored_without_an_end(folder):
    from ppo_lm.models import RewardModel
    from ppo_lm.reward_modeling import score_all

    base = make_base()
    base.add_adapter("reward", make_lora_config(4, 8, 0.0))
    model = RewardModel(base)
    computer = RewardComputer(ModelReward.of(model))
    responses = Responses(["TL;DR:"] * 2, [" My boss"] * 2, {"terminated": [True, False]})
    found = computer.compute_rewards(responses).total
    ids = base.tokenizer("TL;DR:")["input_ids"] + base.tokenizer(" My boss")["input_ids"]
    torch.testing.assert_close(found, score_all(model, [[*ids, 1], ids]), rtol=0, atol=1e-5)


def test_conversations_go_through_the_chat_template_and_reach_the_reward_as_messages(folder, tmp_path):
    chat = tmp_path / "chat"
    shutil.copytree(folder, chat)
    file = chat / "tokenizer_config.json"
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}{% if add_generation_prompt "
        "%}assistant:{% endif %}"
    )
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template}))
    seen = []

    def reward(prompts, completions):
        seen.append((prompts[0], completions[0]))
        return [float(len(completion[0]["content"])) for completion in completions]

    asked = [[{"role": "user", "content": f"My boss number {n}?"}] for n in range(4)]
    trained = trainer(str(chat), reward=reward)
    pairs, _texts = trained.generator.generate_sequences(asked)
    width = pairs.input_ids.shape[1] - pairs.action_ids.shape[1]
    state = pairs.input_ids[0, :width][pairs.attention_mask[0, :width]]
    assert trained.base.tokenizer.decode(state) == "user: My boss number 0? assistant:"
    results = trained.ppo_step(asked)
    assert seen[0] == (asked[0], [{"role": "assistant", "content": results["generated_texts"][0]}])
    with pytest.raises(DataError, match="is a conversation, but the model's tokenizer has no chat template"):
        trainer(folder).ppo_step(asked)


def test_long_prompts_are_cut_at_a_sentence_and_counted(folder, capsys):
    long = "POST: I moved out. " + "My boss yelled at me again. " * 20 + "TL;DR:"
    trained = trainer(folder, max_prompt_tokens=40, eval_prompts=0, steps=1)
    trained.train([long, "word " * 100, "TL;DR:", "My boss. TL;DR:", "I am sad. TL;DR:"])
    printed = capsys.readouterr().out
    assert "4 of 5 rows used" in printed and "1 prompts cut at the end of a sentence" in printed
    assert "row 2 has no sentence that ends within max_prompt_tokens 40" in printed


@pytest.mark.parametrize("holes", [False, True])
def test_metrics_count_sampled_tokens_only(holes):
    pairs = make_pairs(rows=6, holes=holes)
    poison = lambda column: column.masked_fill(~pairs.action_mask, torch.nan)  # noqa: E731
    dirty = pairs.with_columns(
        kl=poison(pairs.kl),
        old_logprobs=poison(pairs.old_logprobs),
        values=poison(pairs.values),
        entropies=poison(pairs.entropies),
    )
    assert describe_rollout(dirty) == describe_rollout(pairs)
    rows = [kl[mask].sum().item() for kl, mask in zip(pairs.kl, pairs.action_mask)]
    assert describe_rollout(pairs)["kl"] == pytest.approx(sum(rows) / len(rows))
    assert describe_rollout(pairs)["length"] == pytest.approx(len(pairs) / 6)
    known = describe_rollout(pairs.with_columns(values=None, entropies=None))
    assert known.keys() == {"kl", "length", "ended"}


def test_importance_weights_are_described_by_hand():
    mask = torch.tensor([[True, True, False], [True, True, False]])
    weights = torch.tensor([[0.25, 1.0, torch.nan], [2.0, 8.0, 1e9]])
    pairs = make_pairs(rows=2, actions=3)
    pairs = replace(pairs, action_mask=mask, old_logprobs=weights.log(), sampler_logprobs=torch.zeros(2, 3))
    expected = {"importance_mean": 11.25 / 4, "importance_min": 0.25, "importance_max": 8.0}
    assert describe_importance(pairs, floor=0.0, cap=0.0) == pytest.approx(expected)
    for floor, cap, outside in ((0.0, 5.0, 1 / 4), (0.5, 5.0, 2 / 4), (0.3, 1.5, 3 / 4)):
        found = describe_importance(pairs, floor, cap)
        assert found == pytest.approx(expected | {"importance_clip_fraction": outside})


def test_rooms_can_be_reached_from_the_package_alone():
    code = "import ppo_lm; print(ppo_lm.plugins.Registry.__name__, hasattr(ppo_lm, 'no_such_room'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["Registry", "False"], done.stderr
