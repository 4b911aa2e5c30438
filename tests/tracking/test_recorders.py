"""What the screen prints, and what the files and the picture hold, of the events of a run."""

import json

import pytest
from rich.console import Console

from ppo_lm.config import PPOConfig
from ppo_lm.data import DataReport
from ppo_lm.errors import ConfigError, RecorderError, UserError
from ppo_lm.health import Finding
from ppo_lm.ppo_trainer.ppo_trainer import columns
from ppo_lm.tracking import (
    RECORDERS,
    Answer,
    Column,
    EvaluationDone,
    MetricsFile,
    Picture,
    Recorder,
    RunFinish,
    RunStart,
    SamplesDrawn,
    SamplesFile,
    Screen,
    StepDone,
    StepSkipped,
)
from ppo_lm.tracking.files import drop_later_steps
from ppo_lm.tracking.recorder import Broadcast, add_recorders, find_recorders

pytestmark = pytest.mark.fast

METRICS = {"score": 0.5, "kl": 0.25, "length": 2.0, "ended": 1.0, "tokens_per_second": 9.0, "seconds": 2.0}
COLUMNS = [Column("score", "reward"), Column("kl", "KL"), Column("monitor", "gold")]


def start(folder=None, **changes) -> RunStart:
    settings = dict(headline="PPO on m", config=PPOConfig(), folder=folder, steps=4, columns=COLUMNS)
    return RunStart(**{**settings, **changes})


@pytest.fixture
def screen():
    return Screen(Console(width=120, highlight=False))


def test_a_line_per_step_with_the_columns_the_speed_and_the_time_left(screen, capsys):
    screen.start(start(done=1, notices=["runs/a is taken"], reports=[DataReport("rows", 3, 2, 0)]))
    screen.step(StepDone(2, 4, METRICS))
    screen.step(StepDone(3, 4, {**METRICS, "monitor": 0.75, "seconds": 4.0}))
    screen.skipped(StepSkipped(4, 4, "the reward is NaN", None))
    screen.finding(Finding("kl", "the KL runs away"))
    assert capsys.readouterr().out.splitlines() == [
        "PPO on m, 1 done",
        "runs/a is taken",
        "rows: 2 of 3 rows used, 0 duplicates",
        "step 2/4  reward  0.500  KL  0.250  tokens/s     9  0:04 left",
        "step 3/4  reward  0.500  KL  0.250  gold  0.750  tokens/s     9  0:03 left",
        "step 4/4  skipped, nothing was trained: the reward is NaN",
        "health: the KL runs away",
    ]


def test_lines_fit_into_80_columns_with_the_default_columns_of_ppo(capsys):
    screen = Screen(Console(width=80, highlight=False))
    screen.start(start(steps=1000, columns=columns("gold")))
    numbers = {"score": -10.5, "kl": 123.4, "monitor": -0.25, "length": 1000.5, "ended": 1.0, "seconds": 60.0}
    for step in (1, 1000):
        screen.step(StepDone(step, 1000, {**METRICS, "monitor": 0.5}))
        screen.step(StepDone(step, 1000, {**numbers, "tokens_per_second": 12345.0}))
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines[0] == "step    1/1000  reward  0.500  KL  0.25  gold  0.500  length   2.0  33:18 left"
    assert max(map(len, lines)) <= 80 and all("reward" in line and "left" in line for line in lines)


def test_a_terminal_wraps_sentences_at_words_and_a_log_does_not(capsys):
    sentence = "to extend the run, raise steps and resume it:\n    ppo-lm train --resume a/long/folder"
    for terminal, lines in ((True, 3), (False, 2)):
        Screen(Console(width=30, highlight=False, force_terminal=terminal, color_system=None)).notice(sentence)
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) == lines and printed[-1] == "    ppo-lm train --resume a/long/folder"


def test_few_lines_over_a_run_show_means_since_the_last(screen, capsys):
    screen.start(start(steps=4, lines=2, columns=[Column("loss", "loss", ".4f")]))
    for step in range(1, 5):
        screen.step(StepDone(step, 4, {"loss": float(step), "seconds": 1.0}))
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines == ["step 2/4  loss 1.5000  0:02 left", "step 4/4  loss 3.5000  0:00 left"]


def test_zero_has_no_sign(screen, capsys):
    screen.start(start(columns=[Column("kl", "KL", "+.3f"), Column("loss", "loss", ".3f")]))
    screen.step(StepDone(1, 4, {"kl": -0.0001, "loss": -0.0006, "seconds": 1.0}))
    screen.evaluation(EvaluationDone(1, 7, {"after": {"loss": -0.00001}}))
    printed = capsys.readouterr().out
    assert "KL 0.000  loss -0.001" in printed and "held out, after: loss 0.0000" in printed


def test_a_resumed_run_tells_its_parts_apart_and_needs_at_most_all_of_its_time(screen, tmp_path, capsys):
    phases = {"seconds": 600.0, "seconds/scoring": 600.0, "floor/scoring": 1.05, "peak_memory_mib": 10.0}
    screen.start(start(tmp_path, done=1, history=[{"step": 1, **phases}]))
    screen.step(StepDone(2, 4, {**phases, "seconds": 2.0, "seconds/scoring": 2.0}))
    screen.finish(RunFinish(tmp_path, 2))
    printed = capsys.readouterr().out
    assert "All 2 steps took 10:02: scoring 10:02 (100%); peak memory 10 MiB" in printed
    assert "need at least: scoring 100%" in printed and "This part of the run took 0:00. Written to" in printed


def test_evaluations_are_a_table_of_kinds_or_a_line(screen, capsys):
    screen.start(start())
    screen.evaluation(EvaluationDone(0, 7, {"sampled": {"score": 0.25, "kl": 1.0}, "near_greedy": {"score": 0.75}}))
    printed = capsys.readouterr().out
    assert "held-out evaluation at step 0, 7" in printed and "gold" not in printed
    row = next(line for line in printed.splitlines() if "near greedy" in line)
    assert "0.750" in row and "1.000" not in row
    screen.evaluation(EvaluationDone(0, 7, {"before": {"loss": 2.0, "rougeL": 0.5}}))
    assert capsys.readouterr().out == "held out, before: loss 2.0000  rougeL 0.5000\n"
    screen.evaluation(EvaluationDone(0, 0, {"before": {}}))  # nothing was held out
    assert capsys.readouterr().out == ""


def test_the_end_shows_examples_phases_and_files_and_never_reads_text_as_markup(screen, tmp_path, capsys):
    (tmp_path / "adapter").mkdir()
    (tmp_path / ".lock").touch()
    (tmp_path / "metrics.jsonl").touch()
    phases = {"seconds/sampling": 1.5, "seconds/training": 0.5, "floor/sampling": 0.5, "peak_memory_mib": 1234.0}
    screen.start(start(tmp_path))
    screen.step(StepDone(1, 4, {**METRICS, **phases}))
    answers = [
        Answer("before", " [bold]x[/bold]", {"reward": 0.25}),
        Answer("after", " y", {"reward": 1.0, "gold": 0.5}),
    ]
    screen.finish(RunFinish(tmp_path, 1, "good enough", [("[red]prompt", answers)]))
    printed = capsys.readouterr().out
    assert "[red]prompt\n  before (reward 0.25): [bold]x[/bold]\n   after (reward 1.00, gold 0.50): y\n" in printed
    assert "stopped after step 1: good enough" in printed
    assert "The steps took 0:02: sampling 0:01 (75%), training 0:00 (25%); peak memory 1,234 MiB" in printed
    assert "Of that, matrix products and memory need at least: sampling 50%" in printed
    assert printed.endswith("  adapter/\n  metrics.jsonl\n")


def test_files_hold_steps_skipped_steps_evaluations_and_samples(tmp_path):
    metrics, samples = MetricsFile(), SamplesFile()
    for recorder in (metrics, samples):
        recorder.start(start(tmp_path, reports=[DataReport("rows", 3, 2, 0)]))
        recorder.step(StepDone(1, 4, METRICS))
        recorder.skipped(StepSkipped(2, 4, "NaN", None))
        recorder.evaluation(EvaluationDone(2, 7, {"sampled": {"score": 0.25}}))
        recorder.samples(SamplesDrawn(2, ["p", "q\u2028"], [" a", " b"], [1.0, -1.0], {"brief": [2.0, None]}))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [
        {"step": 1, **METRICS},
        {"step": 2, "dropped": "NaN"},
        {"step": 2, "evaluation": "sampled", "score": 0.25},
    ]
    lines = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert json.loads(lines[1]) == {
        "step": 2, "prompt": "q\u2028", "completion": " b", "score": -1.0, "rewards": {"brief": None},
    }  # fmt: skip
    assert json.loads((tmp_path / "data_report.json").read_text())[0]["used"] == 2


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for recorder in (MetricsFile(), SamplesFile(), Picture()):
        recorder.start(start())
        recorder.step(StepDone(1, 4, METRICS))
        recorder.samples(SamplesDrawn(1, ["p"], [" a"], [1.0], {}))
        recorder.finish(RunFinish(None, 1))
    assert list(tmp_path.iterdir()) == []


def test_what_was_recorded_after_a_checkpoint_is_dropped_and_a_torn_line_too(tmp_path):
    metrics, samples = MetricsFile(), SamplesFile()
    for recorder in (metrics, samples):
        recorder.start(start(tmp_path))
        for step in (1, 2, 3):
            recorder.step(StepDone(step, 4, METRICS))
            recorder.samples(SamplesDrawn(step, ["p\u2028\u0085"], [" a"], [1.0], {}))
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('{"step": 2, "pro')  # torn by a kill
    assert [row["step"] for row in drop_later_steps(tmp_path, 2)] == [1, 2]
    for name in ("metrics.jsonl", "samples.jsonl"):
        lines = (tmp_path / name).read_text(encoding="utf-8").split("\n")[:-1]
        assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"stop": 2}\n')
    with pytest.raises(UserError, match="metrics.jsonl, line 2 is damaged"):
        drop_later_steps(tmp_path, 2)


def test_the_picture_has_gaps_where_the_monitor_has_no_opinion_and_shows_a_resumed_runs_first_steps(tmp_path):
    picture = Picture()
    picture.start(
        start(tmp_path, history=[{"step": 1, **METRICS, "monitor": 0.5}, {"step": 1, "evaluation": "sampled"}])
    )
    picture.step(StepDone(2, 4, METRICS))
    assert [row["step"] for row in picture.history] == [1, 2] and picture.monitor == "gold"
    picture.finish(RunFinish(tmp_path, 2))
    assert (tmp_path / "learning_curve.png").stat().st_size > 1000


def test_recorders_are_made_by_name(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from ppo_lm.tracking import Recorder\n\nclass Mine(Recorder):\n    pass\n", encoding="utf-8"
    )
    own = MetricsFile()
    made = add_recorders([own], ["metrics", "picture", f"{tmp_path}/mine.py:Mine"])
    assert made[0] is own and [type(recorder).__name__ for recorder in made[1:]] == ["Picture", "Mine"]
    assert {"screen", "metrics", "samples", "picture"} <= set(RECORDERS.names)


def test_a_package_that_is_missing_is_said_before_any_model_loads(monkeypatch):
    class Elsewhere(Recorder):
        needs = ("no_such_package",)

    monkeypatch.setitem(RECORDERS._parts, "elsewhere", Elsewhere)
    with pytest.raises(ConfigError, match=r"'elsewhere' needs no_such_package; install it with: pip install 'ppo-lm\["):
        find_recorders(["elsewhere"])
    with pytest.raises(ConfigError, match="recorders is 'screem'; .* did you mean 'screen'"):
        add_recorders([], ["screem"])


def test_the_first_reason_to_stop_counts_and_an_exception_is_reported_in_one_sentence():
    class Says(Recorder):
        def __init__(self, reason):
            self.reason = reason

        def step(self, event):
            if self.reason == "raise":
                raise KeyError("x")
            return self.reason

    broadcast = Broadcast([Says(None), Says("first"), Says("second")])
    broadcast.tell(Recorder.step, StepDone(1, 4, METRICS))
    assert broadcast.stop_reason == "first"
    with pytest.raises(RecorderError, match=r"recorder Says raised KeyError in step\(\): 'x'"):
        Broadcast([Says("raise")]).tell(Recorder.step, StepDone(1, 4, METRICS))
