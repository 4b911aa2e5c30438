"""When early stopping asks a run to stop, by hand."""

import re

import pytest

from ppo_lm.config import PPOConfig, SFTConfig
from ppo_lm.errors import ConfigError
from ppo_lm.tracking import EarlyStopping, EvaluationDone, RunStart, StepDone, early_stopping

pytestmark = pytest.mark.fast


def watch(stopping: EarlyStopping, values, metric="score"):
    """The number of the value at which it asks to stop, and the reason; None if it does not."""
    for number, value in enumerate(values, start=1):
        reason = stopping.step(StepDone(number, 99, {metric: value}))
        if reason is not None:
            return number, reason
    return None


def started(stopping: EarlyStopping, history=()) -> EarlyStopping:
    stopping.start(RunStart("PPO on m", PPOConfig(), None, 99, history=history))
    return stopping


@pytest.mark.parametrize(
    ("mode", "min_delta", "values", "stops"),
    [
        ("max", 0.0, [1, 2, 2, 1.5], 4),  # an equal value is no improvement
        ("max", 0.0, [1, 0, 1.1, 0, 1.2, 0], None),  # each new best starts the count again
        ("max", 0.5, [1, 1.4, 1.5], 3),  # neither exceeds 1 by more than 0.5
        ("max", 0.5, [1, 1.4, 1.6, 1.7], None),  # small gains add up, measured from the best
        ("min", 0.0, [3, 2, 1, 0], None),
        ("min", 0.0, [-1, 2, 3], 3),
        ("min", 0.25, [2, 1.75, 1.75], 3),
    ],
)
def test_it_stops_after_so_many_values_without_an_improvement(mode, min_delta, values, stops):
    found = watch(EarlyStopping("score", 2, mode, min_delta), values)
    assert (found and found[0]) == stops


def test_the_reason_has_the_best_value_and_the_patience():
    assert watch(EarlyStopping("score", 2, "min", 0.25), [2, 3, 1.9]) == (
        3,
        "score has not fallen by more than 0.25 from 2 in 2 steps (stop_patience)",
    )


def test_a_patience_of_one_is_one_step():
    assert watch(EarlyStopping("score", 1), [2, 1]) == (
        2,
        "score has not risen by more than 0 from 2 in 1 step (stop_patience)",
    )


def test_an_evaluation_is_an_observation_and_the_steps_between_are_none():
    stopping = started(EarlyStopping("sampled/score", 2))

    def evaluate(step, score):
        return stopping.evaluation(EvaluationDone(step, 8, {"sampled": {"score": score}, "near_greedy": {"score": 9}}))

    assert evaluate(0, 0.5) is None
    for step in range(1, 9):
        assert stopping.step(StepDone(step, 99, {"score": 0.0})) is None
    assert evaluate(10, 0.4) is None
    assert evaluate(20, 0.5) == "sampled/score has not risen by more than 0 from 0.5 in 2 evaluations (stop_patience)"


def test_a_step_without_the_metric_is_no_observation():
    stopping = EarlyStopping("monitor", 2)
    assert watch(stopping, [1.0, 0.0], "monitor") is None
    assert stopping.step(StepDone(3, 99, {"score": 0.0})) is None
    assert stopping.step(StepDone(4, 99, {"monitor": 0.0})) is not None


def test_an_unknown_metric_is_an_error_at_the_first_step_that_has_all_metrics():
    message = "stop_metric is 'scor', but the metrics of this run are kl, sampled/score, score; did you mean 'score'?"
    stopping = started(EarlyStopping("scor", 2, partial_steps=1))
    stopping.evaluation(EvaluationDone(0, 8, {"sampled": {"score": 1.0}}))
    assert stopping.step(StepDone(1, 99, {"kl": 0.0})) is None  # a warm-up step may lack it
    with pytest.raises(ConfigError, match=re.escape(message)):
        stopping.step(StepDone(2, 99, {"score": 1.0, "kl": 0.0}))
    with pytest.raises(ConfigError, match="are score; name one of them$"):
        EarlyStopping("zzz", 2).step(StepDone(1, 99, {"score": 1.0}))


def test_a_resumed_run_knows_the_evaluations_before_it():
    stopping = started(EarlyStopping("sampled/score", 2), [{"step": 0, "evaluation": "sampled", "score": 1.0}])
    assert stopping.step(StepDone(4, 99, {"score": 1.0})) is None


def test_it_continues_with_its_state_unless_that_is_of_another_metric_or_mode():
    first = EarlyStopping("score", 3)
    assert watch(first, [2, 1, 1]) is None
    for settings, stops in ((("score",), 1), (("kl",), 4), (("score", "min"), 4)):
        metric, *mode = settings
        second = EarlyStopping(metric, 3, *mode)
        second.load_state_dict(first.state_dict())
        assert watch(second, [1.5, 1.5, 1.5, 1.5], metric)[0] == stops


def test_after_the_stop_there_is_a_whole_patience_again():
    stopping = EarlyStopping("score", 2)
    assert watch(stopping, [2, 1, 1])[0] == 3
    assert watch(stopping, [1, 1])[0] == 2


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (PPOConfig, dict(stop_metric="score"), "stop_metric is score but stop_patience is 0"),
        (PPOConfig, dict(stop_patience=3), "stop_patience is 3 but stop_metric is not set"),
        (PPOConfig, dict(stop_metric="sampled/score", stop_patience=3), "eval_every is 0.*set eval_every"),
        (SFTConfig, dict(stop_metric="after/loss", stop_patience=3), "evaluates only before and after training"),
    ],
)
def test_settings_with_which_it_would_never_stop_are_refused(make, settings, message):
    with pytest.raises(ConfigError, match=message):
        make(**settings)


def test_a_configuration_makes_one_with_its_settings_or_none():
    assert early_stopping(PPOConfig()) == []
    (made,) = early_stopping(PPOConfig(stop_metric="kl", stop_patience=2, stop_mode="min", stop_min_delta=0.5), 3)
    assert (made.metric, made.patience, made.mode, made.min_delta, made.partial_steps) == ("kl", 2, "min", 0.5, 3)
    (made,) = early_stopping(SFTConfig(stop_metric="loss", stop_patience=9))
    assert (made.metric, made.mode) == ("loss", "min")
