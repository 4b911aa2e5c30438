"""Lines broken at words, curves of characters, and work that says what it is."""

import threading
from contextlib import suppress

import pytest

from ppo_lm.progress import phase, under_way
from ppo_lm.terminal import sparkline, wrapped
from ppo_lm.terminal import working as shown_work
from ppo_lm.terminal.pinned import cut
from ppo_lm.terminal.text import ASCII_BARS
from ppo_lm.terminal.working import can_encode, describe_work, working

pytestmark = pytest.mark.fast


def test_sparkline_by_hand():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert sparkline([0.0, None, 7.0]) == "▁ █"
    assert sparkline([0, 0, 7, 7], width=2) == "▁█"
    assert sparkline([None, None]) == "  "
    assert sparkline([]) == ""
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], bars=ASCII_BARS) == ASCII_BARS


def test_lines_are_broken_at_spaces_and_keep_their_indentation_but_commands_stay_whole():
    assert wrapped("one two three", 8) == "one two\nthree"
    assert wrapped("  one two three", 8) == "  one\n  two\n  three"
    assert wrapped("a " + "b" * 20 + " c", 8) == "a\n" + "b" * 20 + "\nc"
    assert wrapped("漢字 漢字", 8) == "漢字\n漢字"  # 9 columns
    assert wrapped("continue with:\n    ppo-lm train --resume x", 8) == "continue\nwith:\n    ppo-lm train --resume x"
    assert wrapped("", 8) == "" and wrapped("\nx", 8) == "\nx"


def test_a_text_is_cut_to_columns_and_steers_nothing():
    assert cut("a\x1b[2J\nb", 20) == ("a\\x1b[2J b", 10)
    assert cut("漢字漢字", 5) == ("漢字 ", 5)
    assert cut("x" * 100_000, 0).cells == 0


def test_phases_are_under_way_inside_their_blocks_even_if_these_fail():
    with phase("evaluation", 10, "prompts") as outer:
        outer.done = 4
        with phase("sampling"):
            assert [str(each) for each in under_way()] == ["evaluation 4/10 prompts", "sampling"]
        with suppress(KeyError), phase("failing"):
            raise KeyError
        assert under_way() == (outer,)
    assert under_way() == ()


def test_work_is_described_in_one_line_in_any_encoding():
    with phase("training", 4, "updates"), phase("micro-batches"):
        assert describe_work(under_way(), "utf-8", 80)[1:] == " training 0/4 updates · micro-batches  0:00"
        assert describe_work(under_way(), "utf-8", 24)[1:] == " training 0/4 ...  0:00"
        assert describe_work(under_way(), "ascii", 80).isascii()
    assert not can_encode("█", "latin-1") and not can_encode("█", None) and not can_encode("x", "no such encoding")


def test_a_log_says_what_is_waited_for_only_once_it_takes_long(monkeypatch, capfd):
    monkeypatch.setattr(shown_work, "SILENCE", 0.05)
    before = threading.active_count()
    with working("loading\x1b m"):
        for timer in [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]:
            timer.join()
    assert capfd.readouterr().err == "loading\\x1b m ...\n"
    monkeypatch.setattr(shown_work, "SILENCE", 60.0)
    with working("loading"), working("saving"):  # the inner one is part of the outer
        assert [str(each) for each in under_way()] == ["loading", "saving"]
    assert capfd.readouterr().err == "" and threading.active_count() <= before + 1
