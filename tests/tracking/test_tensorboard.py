"""The texts of a run in TensorBoard; tests/tracking/test_trackers.py has the curves."""

import pytest

from ppo_lm.config import PPOConfig
from ppo_lm.health import Finding
from ppo_lm.tracking import RunStart, SamplesDrawn, StepDone, StepSkipped, TensorBoard

pytest.importorskip("tensorboard")


def read(folder):
    """The steps of each curve, and (step, text) of each text."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    curves = {name: [point.step for point in events.Scalars(name)] for name in events.Tags()["scalars"]}
    texts = {
        name.removesuffix("/text_summary"): [
            (point.step, point.tensor_proto.string_val[0].decode()) for point in events.Tensors(name)
        ]
        for name in events.Tags()["tensors"]
    }
    return curves, texts


def start(folder, done=0):
    return RunStart("PPO on m", PPOConfig(batch_size=4), folder, 4, done)


def test_texts_are_shown_as_they_are(tmp_path):
    board = TensorBoard()
    board.start(start(tmp_path))
    board.samples(SamplesDrawn(1, ["*a* prompt"], ["two\nlines"], [0.5], {}))
    board.skipped(StepSkipped(2, 4, "the reward is NaN", None))
    board.finding(Finding("kl", "the KL runs away"))
    board.close()
    _, texts = read(tmp_path)
    assert "    batch_size: 4\n" in texts.pop("settings")[0][1]
    assert texts == {
        "samples": [(1, "    *a* prompt\n    \n    → two\n    lines\n    \n    score 0.5\n")],
        "skipped": [(2, "    the reward is NaN\n")],
        "health": [(2, "    the KL runs away\n")],
    }


def test_steps_after_the_checkpoint_are_forgotten_also_if_that_is_the_first(tmp_path):
    for done, last in ((0, 2), (0, 3), (2, 4)):  # killed before its first checkpoint after a step, and after step 3
        board = TensorBoard()
        board.start(start(tmp_path, done))
        for step in range(done + 1, last + 1):
            board.step(StepDone(step, 4, {"score": 1.0}))
        board.close()
    assert read(tmp_path)[0] == {"score": [1, 2, 3, 4]}
