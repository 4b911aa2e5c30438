"""A custom estimator, losses, a reward and a recorder, loaded from their files: a step with each, and its numbers."""

import csv
import json

import pytest
import torch

from ppo_lm.cli.main import main
from ppo_lm.config import PPOConfig
from ppo_lm.ppo_trainer import PPOTrainer
from ppo_lm.rewards import Responses, ask, load_reward
from ppo_lm.tracking import RECORDERS
from ppo_lm.training import NewNumbers
from tests.conftest import make_pairs

PROMPTS = [f"SUBREDDIT: r/advice TITLE: My boss number {n} TL;DR:" for n in range(4)]


def by_length(prompts, completions):
    return [len(completion) / 10 for completion in completions]


def take_step(folder, **settings):
    """The pairs that were trained on, the step's results, and the trainer."""
    config = PPOConfig(model_name=folder, batch_size=4, lora_r=4, steps=3, learning_rate=1e-2, device="cpu", **settings)
    trainer, seen = PPOTrainer(config, reward=by_length), []
    train = trainer.model_trainer.train_models
    trainer.model_trainer.train_models = lambda pairs, kl_coef: (seen.append(pairs), train(pairs, kl_coef))[1]
    before = [weight.detach().clone() for weight in trainer.roles.policy.parameters()]
    results = trainer.ppo_step(PROMPTS)
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.roles.policy.parameters()))
    return seen[0], results, trainer


def test_an_estimator(folder, checkout):
    pairs, results, trainer = take_step(
        folder, advantage_estimator=f"{checkout}/examples/own_estimator.py:REINFORCE", kl_coef=0.0
    )
    expected = (pairs.scores - pairs.scores.mean())[:, None] * pairs.action_mask
    torch.testing.assert_close(pairs.advantages, expected, rtol=0, atol=1e-6)
    assert trainer.roles.value is None and "value_loss" not in results and "explained_variance" not in results


def test_a_policy_loss(folder, checkout):
    name = f"{checkout}/examples/own_policy_loss.py:GSPO"
    _, results, trainer = take_step(folder, policy_loss=name, clip_epsilon=4e-4, loss_aggregation="sequence_mean")
    assert 0 < results["clip_fraction"] <= 1 and results["approx_kl"] > 0
    pairs = make_pairs(rows=5, holes=True)
    new = NewNumbers((pairs.old_logprobs + 0.1 * pairs.values).requires_grad_(), None)
    found = trainer.model_trainer.losses.policy.compute(pairs, new, PPOConfig(clip_epsilon=0.05))
    for row, mask in enumerate(pairs.action_mask):
        ratio = torch.exp((0.1 * pairs.values[row][mask]).mean())
        for t in mask.nonzero()[:, 0].tolist():
            advantage = pairs.advantages[row, t]
            expected = -min(ratio * advantage, ratio.clamp(0.95, 1.05) * advantage)
            torch.testing.assert_close(found.loss[row, t], expected)


def test_a_value_loss(folder, checkout):
    _, results, trainer = take_step(folder, value_loss=f"{checkout}/examples/own_value_loss.py:HUBER")
    assert results["value_loss"] > 0 and "value_clip_fraction" not in results and "value_far_fraction" in results
    pairs = make_pairs(rows=1, actions=2).with_columns(reward_to_go=torch.tensor([[0.0, 0.0]]))
    found = trainer.model_trainer.losses.value.compute(pairs, torch.tensor([[0.5, 3.0]]), PPOConfig())
    assert found.loss.tolist() == [[0.125, 2.5]] and found.metrics["value_far_fraction"].tolist() == [[False, True]]


def test_a_reward(checkout):
    reward = load_reward(f"{checkout}/examples/own_reward.py:Measured")
    assert reward.missing_columns(["prompt"]) == ["words"]
    scores = ask(reward, Responses([""] * 3, ["One two.", "so so so so", ""], {"words": [2, 4, 2]}))
    assert scores.opinions == pytest.approx([1.0, 1 - 3 / 4, 0.0])
    assert {name: part.tolist() for name, part in scores.parts.items()} == {
        "length": [1.0, 1.0, 0.0],
        "repeated": [0.0, 0.75, 0.0],
    }


def test_a_recorder(folder, tmp_path, monkeypatch, checkout, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    options = dict(
        model_name=folder,
        prompts="prompts.txt",
        reward="length_target(words=4)",
        recorders=f"{checkout}/examples/own_recorder.py:Table",
        steps=2,
        batch_size=4,
        eval_prompts=0,
        lora_r=4,
        output_dir="run",
    )
    main(["train", *[f"--{name}={value}" for name, value in options.items()]])
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    written = list(csv.reader((tmp_path / "scores.csv").open()))
    assert written == [[str(row[name]) for name in ("step", "score", "kl")] for row in logged]
    capsys.readouterr()

    table = RECORDERS.find(f"{checkout}/examples/own_recorder.py:Table")
    config = PPOConfig(model_name=folder, batch_size=4, lora_r=4, steps=3, eval_prompts=0, device="cpu")
    PPOTrainer(config, reward=by_length).train(PROMPTS, recorders=[table("goal.csv", goal=-1.0)])
    assert "the score is" in capsys.readouterr().out
    assert len((tmp_path / "goal.csv").read_text().splitlines()) == 1


def test_a_run_with_two_of_them_from_the_command_line_and_the_doctor_on_it(folder, tmp_path, checkout, capsys):
    """Health checks run in every step from the tenth on, and again in the doctor: they cope without the numbers that
    these parts do not report."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS * 3))
    out = tmp_path / "run"
    options = dict(
        model_name=folder,
        prompts=prompts,
        reward="length_target(words=4)",
        advantage_estimator=f"{checkout}/examples/own_estimator.py:REINFORCE",
        policy_loss=f"{checkout}/examples/own_policy_loss.py:GSPO",
        steps=11,
        batch_size=4,
        max_new_tokens=4,
        eval_prompts=0,
        lora_r=4,
        output_dir=out,
    )
    main(["train", *[f"--{name}={value}" for name, value in options.items()]])
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 11 and not any("explained_variance" in row for row in rows)
    capsys.readouterr()
    main(["doctor", str(out)])
    assert "11 of 11 steps" in capsys.readouterr().out


def test_an_optimiser_and_a_schedule(folder, checkout):
    own = f"{checkout}/examples/own_optimiser.py"
    settings = dict(optimiser=f"{own}:Lion", lr_schedule=f"{own}:hold_then_fall", ppo_epochs=1)
    _, results, trainer = take_step(folder, **settings)
    assert results["learning_rate"] == 1e-2  # 5 · (1 − 1/3) is above 1
    optimiser = trainer.model_trainer.policy_optimiser
    means = [optimiser.inner.state[weight]["mean"] for weight in optimiser.parameters]
    moved = torch.cat([mean.sign().flatten() for mean in means])
    assert set(moved.unique().tolist()) <= {-1.0, 0.0, 1.0} and (moved != 0).any()
    # a new adapter's B is 0, so that one update moves it by the learning rate or not at all
    sizes = torch.cat([weight.detach().abs().flatten() for weight, mean in zip(optimiser.parameters, means)])
    assert (sizes[moved != 0] >= 1e-2 * 0.999).any()
    trainer.ppo_step(PROMPTS)
    assert trainer.ppo_step(PROMPTS)["learning_rate"] == 0.0
