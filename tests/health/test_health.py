"""Every finding is provoked by a small run; a run without its cause is free of it."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml

from ppo_lm.cli.main import main
from ppo_lm.config import PPOConfig
from ppo_lm.health.checks import CHECKS, EARLY_CHECKS, WINDOW, check_health
from ppo_lm.rollout import Sampled
from tests.ppo_trainer.conftest import PROMPTS, make


def of_length(prompts, completions):
    return [len(c) / 10 for c in completions]


def constant(prompts, completions):
    return [0.5] * len(completions)


def run(folder, out: Path, reward=of_length, steps=WINDOW, change=lambda trainer: None, monitor=None, **settings):
    defaults = dict(
        eval_every=0,
        eval_prompts=0,
        steps=steps,
        learning_rate=3e-3,
        value_learning_rate=1e-2,
        lr_schedule="constant",
        value_clip=0.0,
    )
    trainer = make(folder, out, reward, **{**defaults, **settings})
    if monitor is not None:
        from ppo_lm.rewards import FunctionReward

        trainer.monitor = FunctionReward(monitor)
    change(trainer)
    trainer.train(PROMPTS)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {finding.name: finding.text for finding in check_health(rows, trainer.config)}


def sampler_is_off(trainer):
    sample = trainer.generator.engine.sample

    def off(*arguments):
        sampled = sample(*arguments)
        return dataclasses.replace(sampled, logprobs=sampled.logprobs - 0.5)

    trainer.generator.engine.sample = off


def ends_often(trainer):
    """A quarter of the vocabulary ends a response."""
    trainer.base.eos_token_ids = list(range(2, 400))


def words(prompts, completions):
    return [float(len(completion.split())) for completion in completions]


def letters(prompts, completions):
    return [completion.count("e") / 2 for completion in completions]


PROVOKED = {
    "kl": dict(kl_coef=0.0, learning_rate=0.1),
    "entropy": dict(
        reward=letters,
        kl_coef=0.0,
        learning_rate=0.01,
        steps=60,
        batch_size=12,
        mini_batches=1,
        max_new_tokens=2,
        top_k=5,
        seed=2,
    ),
    "clipped often": dict(kl_coef=0.0, learning_rate=0.03, ppo_epochs=8, mini_batches=1, clip_epsilon=0.01),
    "clipped never": dict(learning_rate=1e-9),
    "critic": dict(value_learning_rate=0.1, steps=2 * WINDOW),
    "sampler": dict(change=sampler_is_off),
    "length": dict(
        reward=words, change=ends_often, learning_rate=0.01, steps=90, kl_coef=0.0, batch_size=12, mini_batches=1
    ),
    "equal rewards": dict(reward=constant),
    "monitor": dict(
        monitor=lambda prompts, completions: [-len(c) for c in completions],
        steps=3 * WINDOW,
        learning_rate=0.03,
        kl_coef=0.0,
        batch_size=8,
    ),
    "policy gradient": dict(max_grad_norm=1e-6),
    "value gradient": dict(max_grad_norm=1e-6),
}


def ends_at_once(trainer):
    """The first token of every response is EOS."""
    end = trainer.base.eos_token_ids[0]
    trainer.generator.engine.sample = lambda prompt_ids, *_: Sampled(
        torch.full((len(prompt_ids), 1), end), torch.zeros(len(prompt_ids), 1)
    )


PROVOKED_IN_ONE_STEP = {"cut off": {}, "empty": dict(change=ends_at_once, top_k=0, top_p=1.0)}


def test_every_check_is_provoked():
    assert PROVOKED.keys() == CHECKS.keys() and PROVOKED_IN_ONE_STEP.keys() == EARLY_CHECKS.keys()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "cut off",
            "100% of the responses were cut off at max_new_tokens (10) in the first steps, so the reward sees "
            "unfinished answers; raise max_new_tokens, or set missing_eos_score",
        ),
        (
            "empty",
            "100% of the responses are empty, so there is nothing to score; check in samples.jsonl that prompts stop "
            "where an answer should begin, or fine-tune the model with `ppo-lm sft` first",
        ),
    ],
)
def test_responses_cut_off_or_empty_are_reported_once_after_the_first_step(folder, tmp_path, capsys, name, text):
    found = run(folder, tmp_path / "run", steps=2, **PROVOKED_IN_ONE_STEP[name])
    assert found == {name: text}
    lines = capsys.readouterr().out.splitlines()
    (said,) = [number for number, line in enumerate(lines) if line == f"health: {text}"]
    assert lines[said - 1].startswith("step 1/2") and lines[said + 1].startswith("step 2/2")
    main(["doctor", str(tmp_path / "run")])
    assert text in capsys.readouterr().out


@pytest.mark.parametrize("name", PROVOKED)
def test_a_known_failure_is_reported(folder, tmp_path, capsys, name):
    found = run(folder, tmp_path / "run", **PROVOKED[name])
    assert name in found, found
    assert (
        f"health: {found[name][:20]}" in capsys.readouterr().out
    )  # reported during the run; its numbers keep changing
    main(["doctor", str(tmp_path / "run")])
    assert found[name] in capsys.readouterr().out


def test_findings_are_reported_once_and_a_healthy_run_has_none(folder, tmp_path, capsys):
    run(folder, tmp_path / "ill", reward=constant, steps=WINDOW + 3, max_grad_norm=10.0)
    assert capsys.readouterr().out.count("health: all responses of a batch get the same score") == 1
    found = run(folder, tmp_path / "well", max_grad_norm=10.0, change=ends_often)
    assert found == {}
    assert "health:" not in capsys.readouterr().out
    main(["doctor", str(tmp_path / "well")])
    assert capsys.readouterr().out == f"{tmp_path / 'well'}: {WINDOW} of {WINDOW} steps\nno problem found\n"


def rows(**columns):
    plain = dict(
        kl=1.0,
        length=10.0,
        entropy=1.0,
        clip_fraction=0.1,
        explained_variance=0.5,
        sampler_gap=0.0,
        ended=1.0,
        empty=0.0,
        score=1.0,
        score_std=1.0,
        policy_grad_norm=0.5,
        value_grad_norm=0.5,
        policy_loss=0.1,
    )
    count = max([2 * WINDOW, *[len(values) for values in columns.values()]])
    return [{"step": i + 1, **plain, **{name: values[i] for name, values in columns.items()}} for i in range(count)]


@pytest.mark.fast
def test_thresholds():
    config = PPOConfig()
    names = lambda **columns: [finding.name for finding in check_health(rows(**columns), config)]  # noqa: E731
    assert names() == []
    assert names(kl=[1.0] * 10 + [9.9] * 10) == [] and names(kl=[1.0] * 10 + [10.1] * 10) == ["kl"]
    assert names(entropy=[1.0] * 10 + [0.11] * 10) == [] and names(entropy=[1.0] * 10 + [0.09] * 10) == ["entropy"]
    assert names(clip_fraction=[0.0] * 20) == ["clipped never"] and names(clip_fraction=[0.01] + [0.0] * 19) == []
    assert names(clip_fraction=[0.41] * 20) == ["clipped often"]
    assert names(explained_variance=[-0.5] * 10 + [0.1] * 10) == [] and names(explained_variance=[-0.1] * 20) == [
        "critic"
    ]
    assert (
        names(ended=[0.4] * 20) == ["cut off"]
        and names(ended=[0.6] * 20) == []
        and names(ended=[0.9] * 10 + [0.4] * 10) == ["length"]
    )
    assert (
        names(policy_grad_norm=[10.1] * 20) == ["policy gradient"] and names(value_grad_norm=[10.1] * 19 + [9.9]) == []
    )
    noisy = [0.5 + 0.01 * (i % 2) for i in range(10)]
    rising = dict(score=[1.0] * 10 + [2.0] * 10)
    assert names(monitor=[x + 0.1 for x in noisy] + noisy, **rising) == ["monitor"]
    assert names(monitor=[x + 0.002 for x in noisy] + noisy, **rising) == []  # within the noise
    assert names(monitor=[x + 0.1 for x in noisy] + noisy) == []  # the reward has not risen
    assert check_health(rows(clip_fraction=[0.9] * 20)[: WINDOW - 1], config) == []


@pytest.mark.parametrize(
    ("config", "metrics", "message"),
    [
        (None, "", "there is no run in"),
        ("- 1\n", "", "has no settings; write one `field: value` per line"),
        ("a: [", "", "config.yaml cannot be read"),
        ("{}", '{"step": 1}\n', None),
        ("{}", "[]\n", "metrics.jsonl, line 1 is damaged: it is not the record of a step"),
        ("{}", "\x00\n", "metrics.jsonl, line 1 is damaged"),
    ],
)
def test_a_folder_that_is_not_a_run_is_reported(tmp_path, capsys, config, metrics, message):
    if config is not None:
        settings = yaml.safe_dump(vars(PPOConfig())) if config == "{}" else config
        (tmp_path / "config.yaml").write_text(settings)
        (tmp_path / "metrics.jsonl").write_text(metrics)
    if message is None:
        main(["doctor", str(tmp_path)])
        assert "1 of 100 steps\nno problem found; most checks start at step 10" in capsys.readouterr().out
        return
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(tmp_path)])
    assert ended.value.code == 1 and message in capsys.readouterr().err
