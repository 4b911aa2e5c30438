"""Value pretraining: what is learnt, how it is measured, and what PPO starts from."""

import json
import random
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.base_setup import EMBEDDED_MODEL, find_value_folder, load_reward_model, set_up_roles
from ppo_lm.cli.main import main
from ppo_lm.config import ValueConfig
from ppo_lm.errors import CheckpointError, ConfigError, DataError, ModelError, RewardError, RunPaused
from ppo_lm.optimisation import LoopSettings
from ppo_lm.run.folder import RUN_FILES
from ppo_lm.value_modeling import ScoredDemonstration, measure_values, run_value, train_value_model
from ppo_lm.value_modeling.value_trainer import make_pairs, sum_value_losses
from tests.conftest import make_base
from tests.conftest import make_pairs as random_pairs
from tests.sft.conftest import DEMONSTRATIONS, signalling, write

GOOD, BAD, EOS = 7, 8, 1


def value_model(seed=0, **settings):
    return set_up_roles(
        make_base(), lora_r=8, lora_alpha=16, lora_dropout=0.0, lora_targets="all-linear", seed=seed, **settings
    ).value


def demonstrations(count, seed=0):
    """Completions whose second token, good or bad at even odds, decides the score."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        word = rng.choice([GOOD, BAD])
        rest = [rng.randrange(20, 40) for _ in range(rng.randint(2, 6))]
        prompt = [rng.randrange(20, 40) for _ in range(rng.randint(1, 5))]
        found.append(ScoredDemonstration(prompt, [rest[0], word, *rest[1:], EOS], 1.0 if word == GOOD else -1.0))
    return found


def value_config(folder, tmp_path, **settings):
    defaults = dict(
        model_name=folder,
        demonstrations=write(tmp_path / "d.jsonl", DEMONSTRATIONS),
        reward="length_target(words=4)",
        held_out=8,
        epochs=2,
        batch_size=8,
        learning_rate=1e-2,
        lora_r=4,
        output_dir=str(tmp_path / "value"),
    )
    return ValueConfig(**{**defaults, **settings})


@pytest.mark.fast
def test_it_predicts_what_is_predictable_and_no_more():
    model, test = value_model(), demonstrations(64, seed=1)
    assert measure_values(model, test)["explained_variance"] < 0.1
    train_value_model(model, demonstrations(800), LoopSettings(learning_rate=1e-2, epochs=6, batch_size=32))
    pairs = make_pairs(model.base, test, 1.0)
    values, scores = model.values(pairs).detach(), pairs.scores
    assert (values[:, 2:] - scores[:, None])[pairs.action_mask[:, 2:]].abs().mean() < 0.15, "decided already"
    assert values[:, :2].abs().mean() < 0.5, "a coin's two sides, before it falls"
    tokens, open_tokens = len(pairs), 2 * len(test)
    assert measure_values(model, test)["explained_variance"] == pytest.approx(1 - open_tokens / tokens, abs=0.12), (
        "the share of tokens after it fell"
    )


@pytest.mark.fast
def test_demonstrations_as_rollouts_by_hand():
    pairs = make_pairs(
        make_base(),
        [ScoredDemonstration([5], [6, 7, EOS], 0.8), ScoredDemonstration([5, 6], [9, EOS], -2.0)],
        gamma=0.5,
    )
    assert pairs.input_ids.tolist() == [[0, 5, 6, 7, 1], [5, 6, 9, 1, 0]]
    assert pairs.action_mask.tolist() == [[True, True, True], [True, True, False]]
    torch.testing.assert_close(pairs.reward_to_go, torch.tensor([[0.2, 0.4, 0.8], [-1.0, -2.0, 0.0]]))


@pytest.mark.fast
def test_the_loss_is_half_the_squared_error_whatever_the_batch():
    model, batch = value_model(), demonstrations(12)
    torch.nn.init.normal_(model.head.linear.weight)
    pairs = make_pairs(model.base, batch, 1.0)
    errors = (model.values(pairs) - pairs.scores[:, None])[pairs.action_mask]
    whole = sum_value_losses(model, batch, 1.0)
    torch.testing.assert_close(whole, (errors.double() ** 2).sum().float() / 2, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        whole, sum(sum_value_losses(model, [one], 1.0) for one in reversed(batch)), rtol=1e-5, atol=0
    )
    assert measure_values(model, batch, batch_size=5)["value_loss"] == pytest.approx(
        float(whole.detach()) / len(pairs), rel=1e-5
    )
    assert measure_values(model, []) == {}


@pytest.mark.fast
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_a_single_demonstration_has_no_explained_variance(gamma):
    model, batch = value_model(), demonstrations(2)
    assert measure_values(model, batch, gamma).keys() == {"value_loss", "explained_variance"}
    assert measure_values(model, batch[:1], gamma).keys() == {"value_loss"}


@pytest.mark.parametrize("lora_r", [8, 0])
def test_ppo_starts_from_what_the_stage_left(folder, tmp_path, lora_r):
    results = run_value(value_config(folder, tmp_path), quiet=True)
    measured = {f"{name}_{when}" for name in ("explained_variance", "value_loss") for when in ("before", "after")}
    assert set(results) == measured
    assert {path.name for path in (tmp_path / "value").iterdir()} <= set(RUN_FILES)
    assert results["value_loss_after"] < 0.5 * results["value_loss_before"]
    assert [
        row["evaluation"]
        for row in map(json.loads, (tmp_path / "value" / "metrics.jsonl").read_text().splitlines())
        if "evaluation" in row
    ] == ["before", "after"]
    kept = set_up_roles(
        make_base(),
        lora_r=8,
        lora_alpha=16,
        lora_dropout=0.0,
        lora_targets="all-linear",
        value_folder=tmp_path / "value" / "value",
    ).value
    trainer = PPOTrainer(
        PPOConfig(model_name=folder, device="cpu", lora_r=lora_r, value_model=str(tmp_path / "value")),
        reward=lambda completions: [1.0] * len(completions),
    )
    pairs = random_pairs(dtype=torch.float32, vocabulary=500)
    torch.testing.assert_close(trainer.roles.value.values(pairs), kept.values(pairs), rtol=0, atol=1e-4)
    fresh = PPOTrainer(
        PPOConfig(model_name=folder, device="cpu", lora_r=lora_r), reward=lambda completions: [1.0] * len(completions)
    ).roles.value
    assert (fresh.values(pairs) - kept.values(pairs)).abs().mean() > 0.01
    before = {name: p.clone() for name, p in enumerate(trainer.roles.value.parameters())}
    trainer.ppo_step(["My boss yelled. TL;DR:"] * 4)
    assert any(not torch.equal(p, before[name]) for name, p in enumerate(trainer.roles.value.parameters())), (
        "and trains it"
    )


def test_the_shipped_value_model_predicts_better_than_one_that_starts_from_the_reward_model():
    """On demonstrations that it was not trained on: `held_out` of the shipped settings."""
    from ppo_lm.base_setup import load_base
    from ppo_lm.data.encoding import encode_completion, encode_prompt
    from ppo_lm.embedded.posts import generate_posts
    from ppo_lm.embedded.summaries import write_demonstrations
    from ppo_lm.reward_modeling import score_all

    base, posts = load_base("embedded", "float32", "cpu"), generate_posts(100, seed=77)
    load_rewards = lambda base: [load_reward_model(base, EMBEDDED_MODEL / "reward")]  # noqa: E731
    texts = [
        (encode_prompt(base.tokenizer, post.prompt), encode_completion(base.tokenizer, summary.text, EOS))
        for post, summary in zip(posts, write_demonstrations(posts, 77))
    ]
    settings = dict(lora_r=16, lora_alpha=32, lora_dropout=0.0, lora_targets="all-linear", load_rewards=load_rewards)
    roles = set_up_roles(base, **settings, value_folder=find_value_folder("embedded"))
    scores = score_all(roles.rewards[0], [prompt + completion for prompt, completion in texts]).tolist()
    scored = [ScoredDemonstration(*ids, score) for ids, score in zip(texts, scores)]
    pretrained = measure_values(roles.value, scored)["explained_variance"]
    start = measure_values(set_up_roles(load_base("embedded", "float32", "cpu"), **settings).value, scored)[
        "explained_variance"
    ]
    assert start < 0 < 0.15 < pretrained


def test_problems_are_reported_in_one_sentence_before_any_model_loads(tmp_path):
    with pytest.raises(ConfigError, match="2 problems:(.|\n)*demonstrations is not set(.|\n)*reward is not set"):
        run_value(ValueConfig(model_name="nobody/none"))
    with pytest.raises(ConfigError, match="lora_r is 0; the value model is an adapter"):
        ValueConfig(lora_r=0)
    both = dict(model_name="nobody/none", demonstrations=str(tmp_path / "none.jsonl"), output_dir=str(tmp_path / "run"))
    with pytest.raises(
        ConfigError,
        match="ValueConfig: 2 problems:(.|\n)*needs 'reference', but demonstrations have only a prompt and a "
        "completion(.|\n)*there is no such file",
    ):
        run_value(ValueConfig(**both, reward=["sentiment", "rouge(column='reference')"]))
    there = both | {"demonstrations": write(tmp_path / "d.jsonl", DEMONSTRATIONS)}
    with pytest.raises(RewardError, match="needs 'reference', but demonstrations have only a prompt and a completion"):
        run_value(ValueConfig(**there, reward="rouge(column='reference')"))
    with pytest.raises(ConfigError, match="reward_weights has 1 numbers for 2 rewards"):
        ValueConfig(**both, reward=["sentiment", "embedded"], reward_weights=[1.0])
    with pytest.raises(DataError, match="there is no such file"):
        run_value(ValueConfig(**both, reward="sentiment"))
    with pytest.raises(ModelError, match="it contains no value model; give the folder of a `ppo-lm value` run"):
        PPOTrainer(PPOConfig(model_name="nobody/none", value_model=str(tmp_path)))
    (tmp_path / "head.safetensors").touch()
    with pytest.raises(
        ModelError, match="has no adapter_config.json, adapter_model.safetensors, so it is not a value model"
    ):
        PPOTrainer(PPOConfig(model_name="nobody/none", value_model=str(tmp_path)))


def test_a_value_model_of_another_base_is_refused(tmp_path):
    base = make_base(hidden_size=48)
    set_up_roles(base, lora_r=4, lora_alpha=8, lora_dropout=0.0, lora_targets="all-linear").value.save(tmp_path)
    with pytest.raises(ModelError, match="was trained on other weights than those of model 'random'"):
        value_model(value_folder=tmp_path)


def renamed(folder):
    file = folder / "adapter_model.safetensors"
    save_file({name.replace("layers", "blocks"): tensor for name, tensor in load_file(file).items()}, file)


@pytest.mark.parametrize(
    ("damage", "is_other", "message"),
    [
        (lambda folder: None, True, "was trained on other weights than those of model 'random'"),
        (renamed, False, "value model .* this network has no place for base_model.model.model.blocks"),
        (lambda folder: (folder / "head.safetensors").write_bytes(b"torn"), False, "is not the head of this model"),
    ],
    ids=["another base of its shape", "names that match nothing", "a torn head"],
)
def test_a_value_model_that_does_not_fit_is_refused(tmp_path, damage, is_other, message):
    settings = dict(lora_r=4, lora_alpha=8, lora_dropout=0.0, lora_targets="all-linear")
    set_up_roles(make_base(), **settings).value.save(tmp_path)
    damage(tmp_path)
    base = make_base()
    if is_other:
        for weight in base.network.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    with pytest.raises(ModelError, match=message) as caught:
        set_up_roles(base, **settings, value_folder=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_resumed_run_does_not_call_the_reward_again(folder, tmp_path):
    """Each call appends to a file how many completions it scored."""
    asked, script = tmp_path / "asked", tmp_path / "judge.py"
    script.write_text(
        f"def judge(completions):\n    open({str(asked)!r}, 'a').write(f'{{len(completions)}}\\n')\n    "
        "return [float(len(c)) for c in completions]\n"
    )
    config = value_config(folder, tmp_path, reward=f"{script}:judge")
    with signalling(signal.SIGTERM, 3), pytest.raises(RunPaused):
        run_value(config, quiet=True)
    counts = [int(line) for line in asked.read_text().split()]
    assert sum(counts) == len(DEMONSTRATIONS)
    run_value(config, quiet=True, resume=tmp_path / "value")
    assert [int(line) for line in asked.read_text().split()] == counts
    train, held_out = json.loads((tmp_path / "value" / "scores.json").read_text())
    assert len(held_out) == 4 and sorted(train + held_out) == sorted(
        float(len(" " + row["completion"])) for row in DEMONSTRATIONS
    )


def test_changed_scores_are_replaced_by_those_of_the_checkpoint(folder, tmp_path, capsys):
    config, file = value_config(folder, tmp_path, reward="length_target(words=4)"), tmp_path / "value" / "scores.json"
    with signalling(signal.SIGTERM, 1), pytest.raises(RunPaused):
        run_value(config, quiet=True)
    scores = json.loads(file.read_text())
    file.write_text(json.dumps([[9.0] * len(part) for part in scores]))
    run_value(config, resume=tmp_path / "value")
    assert json.loads(file.read_text()) == scores
    assert "scores.json changed since the checkpoint" in capsys.readouterr().out


def test_rewards_that_change_after_scoring_are_refused_whatever_is_allowed(folder, tmp_path):
    script = tmp_path / "judge.py"
    script.write_text("def judge(completions):\n    return [float(len(c)) for c in completions]\n")
    config = value_config(folder, tmp_path, reward=f"{script}:judge")
    with signalling(signal.SIGTERM, 3), pytest.raises(RunPaused):
        run_value(config, quiet=True)
    script.write_text(script.read_text().replace("len(c)", "len(c) * 100"))
    with pytest.raises(CheckpointError, match="the rewards changed after they had scored the demonstrations"):
        run_value(config, quiet=True, resume=tmp_path / "value", allow_changes=True)


def test_several_rewards_are_weighted_and_clipped_as_in_ppo(folder, tmp_path):
    script = tmp_path / "judges.py"
    script.write_text(
        "def words(completions):\n    return [float(len(c.split())) for c in completions]\n\ndef "
        "letters(completions):\n    return [float(len(c)) for c in completions]\n"
    )
    rewards = dict(reward=[f"{script}:words", f"{script}:letters"], reward_weights=[2.0, -0.5], reward_clip=9.0)
    run_value(value_config(folder, tmp_path, **rewards, max_steps=1), quiet=True)
    train, held_out = json.loads((tmp_path / "value" / "scores.json").read_text())
    assert sorted(train + held_out) == sorted(
        2 * min(len(d["completion"].split()), 9) - 0.5 * min(len(" " + d["completion"]), 9) for d in DEMONSTRATIONS
    )


def test_the_command(folder, tmp_path, capsys):
    file = write(tmp_path / "d.jsonl", DEMONSTRATIONS)
    main(
        [
            "value",
            "--model_name",
            folder,
            "--demonstrations",
            file,
            "--reward",
            "sentiment",
            "--held_out",
            "8",
            "--max_steps",
            "2",
            "--output_dir",
            str(tmp_path / "run"),
        ]
    )
    assert "value model on" in capsys.readouterr().out
    assert find_value_folder(str(tmp_path / "run")) == tmp_path / "run" / "value"
