"""The view of a run on a real terminal, tmux, that changes its size; and elsewhere the plain lines alone."""

import logging
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ppo_lm.terminal.pinned import announce, is_interactive, pinned

SCRIPT = Path(__file__).with_name("scripted_run.py")
INTERRUPTED = "SIGINT: the run stops after this step; send it again to stop at once"
LOOKS = 6  # how often the script waits


class Terminal:
    """A tmux server of its own, with one pane that runs the script."""

    def __init__(self, folder: Path, width: int):
        self.folder, self.socket = folder, folder / "tmux"
        settings = {"CI": "", "NO_COLOR": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
        environment = [part for name, value in settings.items() for part in ("-e", f"{name}={value}")]
        command = f"{sys.executable} {SCRIPT} {folder}; sleep 60"
        self.tmux("-f", os.devnull, "new-session", "-d", *environment, "-x", str(width), "-y", "30", command)

    def tmux(self, *arguments: str) -> str:
        return subprocess.run(
            ["tmux", "-u", "-S", str(self.socket), *arguments], check=True, capture_output=True, encoding="utf-8"
        ).stdout

    def lines(self, *options: str) -> list[str]:
        """What is on the screen, with lines that were wrapped in one piece."""
        return [line.rstrip() for line in self.tmux("capture-pane", "-p", "-J", *options).splitlines() if line.strip()]

    def wait_for(self, text: str) -> list[str]:
        for _ in range(600):
            lines = self.lines()
            if any(text in line for line in lines):
                return lines
            time.sleep(0.1)
        raise AssertionError(f"{text!r} did not appear in {lines}")

    def resize(self, width: int) -> list[str]:
        """The screen once the panel fits: it has the whole width but one column."""
        self.tmux("resize-window", "-x", str(width), "-y", "30")
        for _ in range(100):
            lines = self.lines()
            if any(len(line) == width - 1 and " passed, about " in line for line in lines):
                return lines
            time.sleep(0.1)
        raise AssertionError(f"nothing fits into {width} columns of {lines}")


def assert_whole(lines: list[str], width: int) -> None:
    """Nothing is wrapped or torn, and every part of the panel is there once."""
    assert max(map(cells, lines)) < width
    titles = ("reward   ", "KL   ", "entropy   ", "expl. variance   ", "tokens/s  sampling ", " passed, about ")
    for part in (*titles, "response ("):
        assert sum(line.count(part) for line in lines) == 1, part


def cells(line: str) -> int:
    from rich.cells import cell_len

    return cell_len(line)


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_nothing_is_torn_while_the_terminal_is_resized_and_the_plain_lines_remain(tmp_path):
    log = start_with_a_log(tmp_path / "log")
    terminal = Terminal(tmp_path, 160)
    try:
        wide = terminal.wait_for("response (0.50)")
        assert_whole(wide, 160)
        assert "training 3/4 updates" in "".join(wide) and "a\\x1b[2J\\x1b]0;owned\\x07\\u202e" in "".join(wide)
        assert_whole(terminal.resize(80), 80)
        (tmp_path / "1").touch()
        assert_whole(terminal.wait_for("held out, held out  "), 80)
        assert_whole(terminal.resize(160), 160)
        terminal.tmux("send-keys", "C-c")
        assert_whole(terminal.wait_for(INTERRUPTED), 160)
        for look in range(2, LOOKS + 1):
            (tmp_path / str(look)).touch()
        terminal.wait_for("the end")
        record = terminal.lines("-S", "-")
        assert record.count(INTERRUPTED) == 1
        assert [line for line in record if line != INTERRUPTED] == plain_lines(log)
        assert terminal.tmux("display-message", "-p", "#{cursor_flag}").strip() == "1"  # it is visible
    finally:
        terminal.tmux("kill-server")


def start_with_a_log(folder: Path) -> subprocess.Popen[str]:
    """The script, with its output redirected."""
    folder.mkdir()
    for look in range(1, LOOKS + 1):
        (folder / str(look)).touch()
    return subprocess.Popen(
        [sys.executable, SCRIPT, folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )


def plain_lines(script: subprocess.Popen[str]) -> list[str]:
    """What the script wrote into its log."""
    written, _ = script.communicate(timeout=60)
    assert script.returncode == 0 and "\x1b" not in written and "\r" not in written
    return [line.rstrip() for line in written.splitlines()]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("changed", "width", "interactive"),
    [
        ({}, 80, True),
        ({"NO_COLOR": "1"}, 80, False),
        ({"NO_COLOR": ""}, 80, True),  # which, by the standard, is as if it were not set
        ({"CI": "true"}, 80, False),
        ({"TERM": "dumb"}, 80, False),
        ({}, 30, False),
    ],
)
def test_lines_move_only_where_somebody_can_watch_them(changed, width, interactive, monkeypatch):
    for name, value in {"NO_COLOR": "", "CI": "", "TERM": "xterm-256color", **changed}.items():
        monkeypatch.setenv(name, value)
    ours, theirs = pseudo_terminal(width)
    with theirs, open(os.devnull, "w") as nowhere:
        assert is_interactive(theirs) == interactive
        assert not is_interactive(nowhere)
    os.close(ours)


@pytest.mark.fast
def test_a_stream_that_was_kept_works_once_the_lines_are_gone(monkeypatch):
    ours, theirs = pseudo_terminal(80)
    monkeypatch.setattr(sys, "stderr", theirs)
    with theirs:
        with pinned(theirs, lambda size: []):
            kept = logging.StreamHandler().stream
            kept.write("unended")
        kept.write(", later")
        theirs.flush()
        shown = b""
        while select.select([ours], [], [], 0.5)[0]:
            shown += os.read(ours, 1000)
        assert shown == b"unended, later"
    os.close(ours)


@pytest.mark.fast
def test_what_is_announced_appears_although_the_display_fails():
    def draw(size):
        raise KeyError("loss")

    ours, theirs = pseudo_terminal(80)
    with theirs, pinned(theirs, draw):
        announce("this run stops after its step")
        shown = b""
        while b"KeyError" not in shown or b"after its step" not in shown:
            assert select.select([ours], [], [], 5)[0], shown
            shown += os.read(ours, 1000)
    os.close(ours)


def pseudo_terminal(width):
    """(the descriptor of what shows it, the stream of what writes to it)."""
    import fcntl
    import struct
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    return ours, open(theirs, "w")
