"""What is known of a run while it runs, and how it is drawn: hand-computed numbers, every width, hostile texts."""

import contextlib
import io
import re
import time

import pytest
from rich.cells import cell_len

from ppo_lm.config import PPOConfig
from ppo_lm.health import Finding
from ppo_lm.live.notebook import draw_page
from ppo_lm.live.panel import Live, draw_body, draw_progress
from ppo_lm.live.state import RunState
from ppo_lm.progress import phase
from ppo_lm.terminal.pinned import Size
from ppo_lm.tracking import Column, EvaluationDone, RunFinish, RunStart, SamplesDrawn, StepDone, StepSkipped

pytestmark = pytest.mark.fast

COLUMNS = [Column("score", "reward"), Column("kl", "KL", "5.2f")]
EVIL = "<b>\x1b[2J\u202e漢字" + "x" * 100_000


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


def started(kind=RunState, **changes) -> RunState:
    state = kind()
    settings = dict(headline="PPO", config=PPOConfig(), folder=None, steps=10, columns=COLUMNS)
    RunState.start(state, RunStart(**{**settings, **changes}))
    return state


def full(kind=RunState) -> RunState:
    state = started(kind)
    for step in (1, 2):
        cost = {"seconds": 4.0, "seconds/sampling": 1.0, "seconds/training": 2.0, "tokens_per_second": 10.0}
        metrics = {"score": float(step), "kl": 0.5, "reward/a": 1.0, "reward/b": float("nan"), "entropy": 1.0}
        state.step(StepDone(step, 10, {**metrics, **cost, "peak_memory_mib": 2048.0}))
    state.samples(SamplesDrawn(2, [EVIL], [EVIL], [0.25], {}))
    state.finding(Finding("kl", EVIL))
    state.skipped(StepSkipped(3, 10, "NaN", None))
    state.evaluation(EvaluationDone(3, 4, {"sampled": {"score": 0.5}, "near_greedy": {"score": 0.75, "other": 1.0}}))
    return state


def test_the_time_left_is_the_mean_of_the_steps_times_those_to_come_and_runs_down(now):
    state = started(
        done=2, history=[{"step": 1, "seconds": 2.0}, {"step": 2, "seconds": 4.0}, {"step": 2, "dropped": ""}]
    )
    assert state.seconds_left() == 24.0  # 8 steps of 3 seconds
    now[0] += 5.0
    assert state.seconds_left() == 19.0
    state.step(StepDone(3, 10, {"score": 1.0}))  # 5 seconds, which it does not say itself
    assert state.seconds_left() == pytest.approx(7 * (2 + 4 + 5) / 3)
    now[0] += 1000.0
    assert state.seconds_left() == 0.0
    assert started().seconds_left() is None


def test_a_resumed_run_of_untimed_steps_is_drawn():
    state = started(done=1, history=[{"step": 1, "loss": 2.0}])  # as of `ppo-lm sft`
    assert "passed" in draw_progress(state, 60, unicode=True).text and "left" not in draw_page(state)


def test_speeds_by_phase_are_the_steps_tokens_over_the_phases_seconds():
    assert full().speeds() == {"sampling": 40.0, "training": 20.0, "step": 10.0}
    assert started().speeds() == {} and full().peak_memory() == 2048.0


def test_curves_are_the_runs_columns_the_parts_of_the_reward_and_what_else_there_is():
    state = full()
    assert [curve.column.title for curve in state.curves()] == ["reward", "a", "b", "KL", "entropy"]
    assert state.curves()[0].values == [1.0, 2.0]
    loss = started(columns=[Column("loss", "loss", ".4f")])
    loss.step(StepDone(1, 10, {"loss": 2.0, "reward/one": 1.0}))  # a single part would be the score again
    assert [curve.column.title for curve in loss.curves()] == ["loss"]


def test_the_panel_by_hand(now):
    state = started()
    state.step(StepDone(1, 10, {"score": 1.0, "seconds": 4.0}))
    state.step(StepDone(2, 10, {"score": 8.0, "seconds": 4.0}))
    now[0] += 65.0
    progress = draw_progress(state, 60, unicode=True)
    assert plain(progress.text) == "step 2/10  ━━━" + "─" * 16 + "  1:05 passed, about 0:00 left"
    assert [plain(line.text).rstrip() for line in draw_body(state, 60, unicode=False)] == ["reward           8.000 _@"]


@pytest.mark.parametrize("width", [40, 41, 79, 80, 120, 160, 300])
def test_no_line_is_wider_than_the_terminal_whatever_the_texts_hold(width):
    state = full(Live)
    with phase(EVIL, 10, "things"):
        lines, low = state.draw(Size(width, 60)), state.draw(Size(width, 9))
    assert len(lines) > 8
    for line in lines:
        assert cell_len(plain(line.text)) == line.cells < width
        assert not set("\x1b\u202e\n\r") & set(plain(line.text))
    assert [line.cells for line in low] == [line.cells for line in lines[:6]]  # two thirds


def test_the_panel_keeps_its_encoding_while_stdout_is_redirected():
    view = full(Live)
    view._encoding = "utf-8"
    with contextlib.redirect_stdout(io.StringIO()):
        assert "━" in view.draw(Size(80, 30))[0].text


def test_an_event_during_a_drawing_is_drawn_next(monkeypatch):
    view = full(Live)

    def interrupted(state, *arguments):
        if state.step_number == 3:
            state.step(StepDone(4, 10, {"score": 9.0, "seconds": 1.0}))
            return []
        return draw_body(state, *arguments)

    monkeypatch.setattr("ppo_lm.live.panel.draw_body", interrupted)
    assert "9.000" not in "".join(line.text for line in view.draw(Size(80, 30)))
    assert "9.000" in "".join(line.text for line in view.draw(Size(80, 30)))


def test_an_encoding_without_blocks_gets_ascii():
    lines = [*draw_body(full(), 80, unicode=False), draw_progress(full(), 80, unicode=False)]
    shown = "".join(plain(line.text) for line in lines).replace("漢", "").replace("字", "")
    assert shown.isascii()


def test_the_notebooks_page_escapes_texts_and_shows_what_the_panel_shows():
    state = full()
    with phase("sampling", 8, "responses"):
        page = draw_page(state)
    assert "sampling 0/8 responses" in page and "about" in page and page.count("<polyline") == 5
    assert 'points="0.0,35.0 180.0,1.0"' in page  # from the lowest to the highest
    assert "&lt;b&gt;\\x1b[2J\\u202e" in page and "<b>\\x1b" not in page and "\x1b" not in page
    assert len(page) < 120_000
    state.finish(RunFinish(None, 3))
    assert "about" not in draw_page(state)


def test_the_notebooks_display_is_updated_and_keeps_the_end(monkeypatch):
    display = pytest.importorskip("IPython.display")
    from ppo_lm.live.notebook import Notebook

    shown = []

    class Handle:
        def update(self, page):
            shown.append(page.data)

    monkeypatch.setattr("ppo_lm.live.notebook.INTERVAL", 0.02)
    monkeypatch.setattr(display, "display", lambda page, display_id: (shown.append(page.data), Handle())[1])
    view = Notebook()
    view.start(RunStart("PPO", PPOConfig(), None, 2, columns=COLUMNS))
    time.sleep(0.2)
    view.step(StepDone(1, 2, {"score": 1.0}))
    view.finish(RunFinish(None, 1))
    view.close()
    assert len(shown) > 3 and "step 0/2" in shown[0] and "step 1/2" in shown[-1]
    count = len(shown)
    time.sleep(0.1)
    assert len(shown) == count


def plain(text: str) -> str:
    """Without styles."""
    return re.sub(r"\x1b\[\d*m", "", text)
