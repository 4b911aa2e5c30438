"""What is known about the training of compared models."""

import pytest

from ppo_lm.base_setup import EMBEDDED_MODEL
from ppo_lm.comparison.contestants import Contestant
from ppo_lm.comparison.exposure import find_exposure
from ppo_lm.run import TrainingPrompts
from ppo_lm.run.trained_prompts import record_prompts

pytestmark = pytest.mark.fast


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run on the embedded model, in the folder runs/mine of the current one."""
    folder = tmp_path / "runs" / "mine"
    (folder / "merged").mkdir(parents=True)
    (folder / "config.yaml").write_text("")
    record_prompts(folder, TrainingPrompts(str(EMBEDDED_MODEL), ["one", "two"]))
    monkeypatch.chdir(tmp_path)
    return folder


def exposure(prompts, *sources):
    return find_exposure([Contestant(source, source) for source in sources], None, prompts)


def test_a_base_is_the_same_however_it_is_named(run):
    found = exposure(["three"], "embedded", "runs/mine/merged")
    assert found.unseen_by_runs and found.describe() == "1 prompt that the models' runs did not train on"
    assert found.sentences == [
        f"no prompt was in the training data of the runs that trained the models; what {EMBEDDED_MODEL} was trained on "
        "before is not known"
    ]


def test_a_model_of_which_nothing_is_known_beside_one_that_is(run):
    found = exposure(["three"], "runs/mine/merged", "org/other")
    assert not found.unseen_by_runs and found.describe() == "1 prompt"
    assert found.sentences == [
        "whether the prompts are held out is not known: there is no record of what org/other was trained on"
    ]


def test_prompts_that_were_seen_are_counted_by_run(run):
    found = exposure(["one", "three", "two"], "embedded", "runs/mine/merged", "column:human")
    assert found.seen == {"embedded": {}, "runs/mine/merged": {str(run): 2}} and not found.unseen_by_runs
    assert found.sentences == [f"runs/mine/merged: 2 of the 3 prompts were in the training data of the run in {run}"]
