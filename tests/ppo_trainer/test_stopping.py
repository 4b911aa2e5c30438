"""A run that stops early: paused before, resumed after, and extended."""

import pytest

from ppo_lm.errors import RunPaused
from ppo_lm.tracking import EarlyStopping, Recorder
from tests.ppo_trainer.conftest import PROMPTS, Fails, end_alike, make, metrics

STOP = dict(stop_metric="kl_coef", stop_patience=3, steps=8, eval_prompts=0, eval_every=0, save_every=1)  # it is fixed


class FailsAtTheEnd(Recorder):
    def __init__(self):
        self.reasons = []

    def finish(self, event):
        self.reasons.append(event.reason)
        if len(self.reasons) == 1:
            raise OSError("no answer")


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A run that stops itself after step 4: the first observation, and three that are no better."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    make(folder, out, Fails(), **STOP).train(PROMPTS)
    assert [row["step"] for row in metrics(out)] == [1, 2, 3, 4]
    return out


def test_paused_half_way_it_counts_on(folder, tmp_path, whole):
    with pytest.raises(RunPaused):
        make(folder, tmp_path / "run", Fails(at=3), **STOP).train(PROMPTS)
    make(folder, tmp_path / "run", Fails(), **STOP).train(PROMPTS, resume=tmp_path / "run")
    end_alike(tmp_path / "run", whole)


def test_paused_right_after_the_stop_it_makes_no_further_step(folder, tmp_path, whole):
    callback = FailsAtTheEnd()
    with pytest.raises(RunPaused):
        make(folder, tmp_path / "run", Fails(), **STOP).train(PROMPTS, recorders=[callback])
    make(folder, tmp_path / "run", Fails(at=1), **STOP).train(PROMPTS, resume=tmp_path / "run", recorders=[callback])
    end_alike(tmp_path / "run", whole)
    assert callback.reasons == ["kl_coef has not risen by more than 0 from 0.1 in 3 steps (stop_patience)"] * 2


def test_extended_it_gets_the_whole_patience_again(folder, tmp_path):
    make(folder, tmp_path / "run", Fails(), **STOP).train(PROMPTS)
    make(folder, tmp_path / "run", Fails(), **{**STOP, "steps": 20}).train(PROMPTS, resume=tmp_path / "run")
    assert metrics(tmp_path / "run")[-1]["step"] == 7


def test_a_misspelt_metric_pauses_the_run_after_one_step_and_can_be_corrected(folder, tmp_path):
    with pytest.raises(RunPaused, match="stop_metric is 'kl_coeff'.*did you mean 'kl_coef'"):
        make(folder, tmp_path / "run", Fails(), **{**STOP, "stop_metric": "kl_coeff"}).train(PROMPTS)
    make(folder, tmp_path / "run", Fails(), **STOP).train(PROMPTS, resume=tmp_path / "run")
    assert metrics(tmp_path / "run")[-1]["step"] == 5  # the first step was not observed


def test_two_recorders_of_one_class_both_count_on(folder, tmp_path):
    def stopping():
        return [EarlyStopping("kl_coef", 4), EarlyStopping("length", 99), EarlyStopping("score", 99)]

    settings = dict(STOP, stop_metric=None, stop_patience=0)
    with pytest.raises(RunPaused):
        make(folder, tmp_path / "run", Fails(at=3), **settings).train(PROMPTS, recorders=stopping())
    again = stopping()
    make(folder, tmp_path / "run", Fails(), **settings).train(PROMPTS, resume=tmp_path / "run", recorders=again)
    assert metrics(tmp_path / "run")[-1]["step"] == 5
    scores = [row["score"] for row in metrics(tmp_path / "run")]
    assert again[2].best == max(scores)
