"""What a run says before its first step, and that earlier steps do not use up its schedule."""

import json

import pytest

from ppo_lm.run import few_updates
from tests.ppo_trainer.conftest import PROMPTS, length_reward, make

SETTINGS = dict(eval_every=0, eval_prompts=0, steps=3)


def rates(out):
    return [json.loads(line)["learning_rate"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "inverse"])
def test_a_run_has_its_whole_schedule_after_earlier_steps_and_says_so(folder, tmp_path, capsys, schedule):
    settings = dict(SETTINGS, lr_schedule=schedule, value_warmup_steps=1 if schedule == "linear" else 0)
    fresh = make(folder, tmp_path / "fresh", length_reward, **settings)
    fresh.train(PROMPTS)
    assert "before this run" not in capsys.readouterr().out
    trainer = make(folder, tmp_path / "later", length_reward, **settings)
    trainer.ppo_step(PROMPTS[:4])
    trainer.ppo_step(PROMPTS[4:8])
    trainer.train(PROMPTS)
    said = capsys.readouterr().out
    assert (
        "\nsteps made before this run: 2; the models continue from there, and the learning rate schedule starts again\n"
        in said
    )
    assert said.index("before this run") < said.index("step 1/3")
    rows = [[json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()] for name in ("fresh", "later")]
    for name in ("learning_rate", "value_learning_rate"):
        then, now = ([row.get(name) for row in each] for each in rows)
        assert then == now and now[-1] < now[1]
    assert rows[0][0]["kl"] == 0 or rows[0][0]["kl"] != rows[1][0]["kl"]  # the weights are those of the earlier steps


def test_a_second_run_trains_on_with_the_whole_schedule(folder, tmp_path, capsys):
    trainer = make(folder, tmp_path / "first", length_reward, **SETTINGS)
    trainer.train(PROMPTS)
    trainer.config.output_dir = str(tmp_path / "second")
    trainer.train(PROMPTS)
    assert "steps made before this run: 3;" in capsys.readouterr().out
    assert rates(tmp_path / "first") == rates(tmp_path / "second")


def test_few_updates_are_said_with_their_number(folder, tmp_path, capsys):
    make(folder, tmp_path / "run", length_reward, **SETTINGS).train(PROMPTS)
    said = capsys.readouterr().out
    line = "training is only 12 optimiser updates, too few to expect much; raise steps\n"
    assert line in said and said.index(line) < said.index("step 1/3")
    assert few_updates(20, "raise steps") == []
    assert few_updates(1, "raise steps") == ["training is only 1 optimiser update, too few to expect much; raise steps"]


@pytest.mark.parametrize(
    ("prompts", "copies", "count"),
    [(1, 1, "is only 1"), (3, 1, "are only 3"), (4, 1, None), (1, 2, "is only 1"), (2, 2, None)],
)
def test_prompts_that_are_repeated_to_fill_a_step_are_said(folder, tmp_path, capsys, prompts, copies, count):
    settings = {**SETTINGS, "steps": 1, "responses_per_prompt": copies}
    make(folder, tmp_path / "run", length_reward, **settings).train(PROMPTS[:prompts])
    before = capsys.readouterr().out.partition("step 1/1")[0]
    line = (
        f"\na step takes {4 // copies} prompts, but there {count} to train on, so prompts are repeated within a step; "
    )
    assert line in before if count else "repeated" not in before


def test_small_data_is_said_before_the_first_step(folder, tmp_path, capsys):
    trainer = make(folder, tmp_path / "run", length_reward, **{**SETTINGS, "eval_prompts": 128})
    evaluations = trainer.train(PROMPTS)
    before = capsys.readouterr().out.partition("step 1/3")[0]
    assert "  11 for training, 1 held out, 0 of them" in before
    assert "  1 held out instead of 128, because at most a tenth of the examples is\n" in before
    assert "  evaluations are means over 1 held-out example only" in before
    assert [len(made.scores) for made in evaluations["sampled"]] == [1, 1]
    assert list(evaluations) == ["sampled", "near_greedy"] and [made.step for made in evaluations["sampled"]] == [0, 3]
    assert make(folder, None, length_reward, **dict(SETTINGS, output_dir=None)).train(PROMPTS) == {}


def test_a_run_that_saves_nothing_says_so_before_its_first_step(folder, tmp_path, capsys):
    make(folder, None, length_reward, **dict(SETTINGS, output_dir=None)).train(PROMPTS)
    said = capsys.readouterr().out
    line = "\noutput_dir is not set, so nothing will be saved\n"
    assert line in said and said.index(line) < said.index("step 1/3")
    make(folder, tmp_path / "run", length_reward, **SETTINGS).train(PROMPTS)
    assert "nothing will be saved" not in capsys.readouterr().out
