"""What a tracker is sent, whatever it lost when its process was killed."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppo_lm.config import PPOConfig
from ppo_lm.tracking import (
    EvaluationDone,
    Recorder,
    RunStart,
    SamplesDrawn,
    SamplesFile,
    StepDone,
    StepSkipped,
    Tracker,
)
from ppo_lm.tracking.tracker import history_of, last_steps, remembered

pytestmark = pytest.mark.fast

STEPS = 6


class InMemory(Tracker):
    """Holds everything that it was sent, in order."""

    def __init__(self, sent):
        super().__init__()
        self.sent = sent

    def open(self, event, folder):
        return last_steps(([name], step) for name, step, _ in self.sent)

    def scalars(self, numbers, step):
        self.sent += [(name, step, value) for name, value in numbers.items()]

    def table(self, name, rows, step):
        self.sent.append((name, step, tuple(row["completion"] for row in rows)))

    def alert(self, kind, text, step):
        pass


def metrics(step):
    return {"score": step / 2, "kl": step / 4}


def answers(step):
    return SamplesDrawn(step, ["p"], [f"answer {step}"], [step / 2], {"judge": [None]})


def events(done):
    """The calls of a run after step `done`: the first evaluation is at step 0, the third step is skipped."""
    calls = [] if done else [(Recorder.evaluation, EvaluationDone(0, 2, {"sampled": {"score": 0.0}}))]
    for step in range(done + 1, STEPS + 1):
        if step == 3:
            calls.append((Recorder.skipped, StepSkipped(3, STEPS, "the reward is NaN", None)))
            continue
        calls.append((Recorder.step, StepDone(step, STEPS, metrics(step))))
        calls.append((Recorder.samples, answers(step)))
        if step % 2 == 0:
            calls.append((Recorder.evaluation, EvaluationDone(step, 2, {"sampled": {"score": step / 3}})))
    return calls


def rows(done):
    """metrics.jsonl up to step `done`."""
    found = [{"step": 0, "evaluation": "sampled", "score": 0.0}]
    for step in range(1, done + 1):
        found.append({"step": 3, "dropped": "the reward is NaN"} if step == 3 else {"step": step, **metrics(step)})
        if step % 2 == 0:
            found.append({"step": step, "evaluation": "sampled", "score": step / 3})
    return found


def start(done, folder=Path("runs/mine")):
    return RunStart("PPO on m", PPOConfig(), folder, STEPS, done, history=rows(done) if done else ())


def whole():
    tracker = InMemory([])
    tracker.start(start(0))
    for method, event in events(0):
        getattr(tracker, method.__name__)(event)
    return tracker.sent


def numbers(sent):
    return [point for point in sent if point[0] != "samples"]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, STEPS), st.integers(0, 20), st.integers(0, 40)), max_size=3))
def test_each_point_is_sent_once_whatever_was_lost(kills):
    """Each kill: the step of the checkpoint, how many events after it were told, how many of the last points the
    tracker lost."""
    sent, reached = [], 0
    for checkpoint, told, lost in [(0, 7, 0), *kills, (STEPS, 0, 0)]:
        checkpoint = min(checkpoint, reached)
        tracker = InMemory(sent)
        tracker.start(start(checkpoint))
        for method, event in events(checkpoint)[:told]:
            getattr(tracker, method.__name__)(event)
            reached = max(reached, event.step if method is not Recorder.evaluation else reached)
        sent = sent[: max(len(sent) - lost, 0)]
    tracker = InMemory(sent)
    tracker.start(start(min(reached, 2)))
    for method, event in events(min(reached, 2)):
        getattr(tracker, method.__name__)(event)
    assert numbers(sent) == numbers(whole())
    assert len(set(sent)) == len(sent) and set(sent) <= set(whole())


def test_a_tracker_that_joins_a_resumed_run_gets_its_history():
    tracker = InMemory([])
    tracker.start(start(4))
    assert numbers(tracker.sent) == [point for point in numbers(whole()) if point[1] <= 4]


def test_tables_that_were_lost_before_the_checkpoint_are_sent_from_the_files_of_the_run(tmp_path):
    file = SamplesFile()
    file.start(start(0, folder=tmp_path))
    for method, event in [*events(0), (Recorder.evaluation, EvaluationDone(6, 2, {}, {"sampled": answers(6)}))]:
        getattr(file, method.__name__)(event)
    sent = [("samples", 1, ("answer 1",))]
    tracker = InMemory(sent)
    tracker.start(start(6, folder=tmp_path))
    tables = [point for point in sent if "samples" in point[0]]
    assert tables == [
        *[("samples", step, (f"answer {step}",)) for step in (1, 2, 4, 5, 6)],
        ("sampled/samples", 6, ("answer 6",)),
    ]
    assert history_of(start(6, folder=tmp_path)) == last_steps(([name], step) for name, step, _ in sent)


def test_a_run_without_a_folder_sends_nothing():
    tracker = InMemory([])
    tracker.start(start(0, folder=None))
    for method, event in events(0):
        getattr(tracker, method.__name__)(event)
    tracker.close()
    assert tracker.sent == []
    assert tracker.notes == ["InMemory: nothing is sent, because output_dir is not set"]


def test_the_history_of_a_tracker_that_cannot_be_asked():
    assert history_of(start(4)) == {"sampled/score": 4, "score": 4, "kl": 4}
    assert last_steps([]) == {}


def test_a_name_is_kept_in_the_folder(tmp_path):
    assert remembered(tmp_path, "wandb", lambda: "first") == "first"
    assert remembered(tmp_path, "mlflow", lambda: "other") == "other"
    assert remembered(tmp_path, "wandb", lambda: "second") == "first"
