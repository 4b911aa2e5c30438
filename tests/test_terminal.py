"""Nothing that comes from data, models or errors steers the terminal."""

import io
import unicodedata

import pytest
from rich.console import Console

from ppo_lm.cli.main import main
from ppo_lm.cli.options import note
from ppo_lm.data import DataReport
from ppo_lm.data.sources import Dropped
from ppo_lm.errors import UserError
from ppo_lm.terminal import printable
from ppo_lm.tracking import Answer, Column, RunFinish, RunStart, Screen, StepSkipped
from ppo_lm.tracking.events import EvaluationDone

pytestmark = pytest.mark.fast

EVIL = "a\x1b]0;owned\x07\x1b[2Jb\x9b31m\r\u202eevil\u2066\x7f"
STEERING = ("\x1b", "\x07", "\x9b", "\r", "\u202e", "\u2066", "\x7f")


def test_control_characters_become_visible_and_everything_else_stays():
    assert printable("tab\tand\nnewline, é, 漢字, 👩‍👧, עברית") == "tab\tand\nnewline, é, 漢字, 👩‍👧, עברית"
    assert printable("\x1b[31m") == "\\x1b[31m" and printable("\u202e") == "\\u202e" and printable("a\r\nb") == "a\nb"
    assert printable("\udcff").encode() == b"\\udcff"
    for code in range(0x110000):
        text = printable(chr(code))
        if unicodedata.category(chr(code)) in ("Cc", "Cs"):
            assert text == chr(code) if chr(code) in "\t\n" else text.startswith("\\")


def test_the_screen_shows_them(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=False, width=300)
    screen = Screen(console)
    report = DataReport(EVIL, 1, 1, 0, dropped=[Dropped(EVIL, EVIL)])
    screen.start(RunStart(EVIL, None, None, 1, reports=[report], notices=[EVIL], columns=[Column("kl", EVIL)]))
    screen.notice(EVIL)
    screen.skipped(StepSkipped(1, 1, EVIL, None))
    screen.evaluation(EvaluationDone(1, 1, {EVIL: {"kl": 1.0}, "b": {"kl": 1.0}}))
    screen.finish(RunFinish(None, 1, EVIL, [(EVIL, [Answer("before", EVIL, {EVIL: 1.0})])]))
    written = console.file.getvalue()
    assert written.count("\\x1b]0;owned") >= 10
    assert not any(mark in written for mark in STEERING)


def test_errors_and_notes_show_them(monkeypatch, capsys):
    def fail(arguments, prog):
        note(EVIL)
        raise UserError(EVIL)

    monkeypatch.setattr("ppo_lm.cli.doctor.run", fail)
    for arguments in (["doctor", "x"], [EVIL], ["sft", f"--{EVIL}", "1"], ["sft", EVIL]):
        with pytest.raises(SystemExit):
            main(arguments)
        written = capsys.readouterr().err
        assert "\\x1b]0;owned" in written and not any(mark in written for mark in STEERING)
