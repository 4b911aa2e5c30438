"""Lines that stay below whatever else is printed on a terminal, and are redrawn a few times per second."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TextIO, cast

from ppo_lm.terminal.text import printable, wrapped

INTERVAL = 0.25  # seconds between two frames
LEAST_WIDTH, LEAST_HEIGHT = 40, 8


class Line(NamedTuple):
    """`text` may contain styles; `cells`: how many columns it takes."""

    text: str
    cells: int


class Size(NamedTuple):
    """Of a terminal, in characters."""

    width: int
    height: int


def is_interactive(stream: TextIO) -> bool:
    """Whether somebody watches `stream` on a terminal on which lines may move: not with NO_COLOR, CI or TERM=dumb, nor
    on a very small one."""
    if os.name != "posix" or os.environ.get("NO_COLOR") or os.environ.get("CI"):
        return False
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return False
    try:
        size = _size_of(stream) if stream.isatty() else Size(0, 0)
    except (OSError, ValueError):  # closed, or without a descriptor
        return False
    return size.width >= LEAST_WIDTH and size.height >= LEAST_HEIGHT


def readable(text: str, stream: TextIO) -> str:
    """`text` as `stream` should show it: on a terminal, its lines are wrapped at words."""
    shown = printable(text)
    try:
        return wrapped(shown, _size_of(stream).width) if stream.isatty() else shown
    except (OSError, ValueError):
        return shown


def _size_of(stream: TextIO) -> Size:
    return Size(*os.get_terminal_size(stream.fileno()))


def cut(text: str, cells: int) -> Line:
    """As much of `text` as fits into `cells` columns of one line, without anything that steers a terminal."""
    from rich.cells import cell_len, set_cell_size

    shown = printable(text[: 4 * cells]).replace("\n", " ").replace("\t", " ")
    if cell_len(shown) > cells:
        shown = set_cell_size(shown, cells)
    return Line(shown, cell_len(shown))


_shown: _Pinned | None = None  # a terminal has one bottom
_is_silent = False


def be_silent() -> None:
    """Announce nothing from now on: another process speaks for this one."""
    global _is_silent  # of the process
    _is_silent = True


@contextmanager
def pinned(stream: TextIO, draw: Callable[[Size], Sequence[Line]]) -> Iterator[None]:
    """Inside the block, the lines that `draw` returns stay at the bottom of the terminal `stream`: at most `height`
    - 1, each narrower than `width`. `draw` is called in a thread. Whatever is written to sys.stdout or sys.stderr
    appears above them, by whole lines. If lines are pinned already, does nothing."""
    global _shown
    if _shown is not None:
        yield
        return
    _shown = _Pinned(stream, draw)
    try:
        with _shown:
            yield
    finally:
        _shown = None


def is_pinned() -> bool:
    """Whether lines are pinned now."""
    return _shown is not None


def announce(text: str) -> None:
    """Print a line on stderr, or above the pinned lines. Safe in a signal handler, where `print` is not."""
    if _is_silent:
        return
    if _shown is not None:
        _shown.announced.append(text + "\n")
        return
    with suppress(OSError):  # nobody reads stderr
        os.write(2, f"{text}\n".encode())


class _Pinned:
    """The cursor rests on the empty row below the lines, and is never hidden: whatever ends the process leaves a usable
    terminal."""

    def __init__(self, stream: TextIO, draw: Callable[[Size], Sequence[Line]]):
        self.announced: deque[str] = deque()
        self._stream, self._draw = stream, draw
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._redraw_until_over, name="pinned lines", daemon=True)
        self._lines: list[Line] = []  # on the terminal now
        self._width = 0  # for which they were drawn
        self._unended = ""  # the line that is being written above them
        self._removed = False  # from the terminal, for good
        self._restore: list[Callable[[], object]] = []

    def __enter__(self) -> None:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if _is_terminal(stream):
                setattr(sys, name, cast(TextIO, _Above(self, stream)))
                self._restore.append(lambda name=name, stream=stream: setattr(sys, name, stream))
        for handler in _log_handlers():  # most keep the stream that they were created with
            if _is_terminal(handler.stream) and not isinstance(handler.stream, _Above):
                before = handler.setStream(_Above(self, handler.stream))
                self._restore.append(lambda handler=handler, before=before: handler.setStream(before))
        if threading.current_thread() is threading.main_thread():  # Python lets only the main thread set handlers
            former = signal.signal(signal.SIGCONT, lambda *_: self._forget())
            self._restore.append(lambda: signal.signal(signal.SIGCONT, former))
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for restore in self._restore:
            restore()
        if not self._is_in_foreground():
            self._forget()
        with self._lock:
            self._put("".join(self.announced) + self._unended, [], self._width)
            self._removed = True

    def write_above(self, stream: TextIO, text: str) -> None:
        """Write to `stream`, which is on this terminal, as soon as a line has ended."""
        if os.getpid() != self._process:  # a child's, which has no thread that draws
            stream.write(text)
            return
        with self._lock:
            if self._removed:  # a log handler, for example, has kept the stream
                stream.write(text)
                return
            ended, newline, rest = (self._unended + text).rpartition("\n")
            self._unended = rest.rpartition("\r")[2] or rest  # a bar of another library goes back to its start
            if newline and self._is_in_foreground():
                self._put(ended + newline, self._lines, self._width, stream)
            elif newline:
                stream.write(ended + newline)

    def _redraw_until_over(self) -> None:
        while not self._over.wait(INTERVAL):
            with self._lock:
                try:
                    self._redraw()
                except Exception as error:  # what is announced still has to appear
                    self._draw = lambda size: ()
                    self.announced.append(f"nothing more is drawn here: {printable(repr(error))}\n")

    def _redraw(self) -> None:
        if not self._is_in_foreground():
            return
        try:
            size = _size_of(self._stream)
        except (OSError, ValueError):  # the terminal is gone
            return
        lines = list(self._draw(size))
        if self._unended:
            lines.insert(0, cut(self._unended, size.width - 1))
        text = "".join(self.announced.popleft() for _ in range(len(self.announced)))
        if text or lines != self._lines or size.width != self._width:
            self._put(text, lines[: size.height - 1], size.width)

    def _put(self, text: str, lines: list[Line], width: int, stream: TextIO | None = None) -> None:
        """Replace the lines on the terminal by `text` and `lines`, drawn for `width`, in one write."""
        stream = stream or self._stream
        clear = bool(text) or not lines or width != self._width
        with suppress(OSError, ValueError):  # the terminal is gone
            stream.write(self._back(clear) + text + _frame(lines))
            stream.flush()
        self._lines, self._width = lines, width

    def _back(self, clear: bool) -> str:
        """Move the cursor to where the lines begin. A terminal that has become narrower has wrapped them. They are
        cleared row by row, because tmux moves what is cleared at once into its history."""
        if not self._lines:
            return ""
        width = _size_of(self._stream).width
        rows = sum(max(-(-line.cells // width), 1) for line in self._lines)
        back = f"\r\x1b[{rows}A"
        return back + "\n".join(["\x1b[2K"] * (rows + 1)) + back if clear else back

    def _forget(self) -> None:
        """The process was stopped, and goes on below what the shell has written."""
        self._lines = []

    def _is_in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        except (OSError, ValueError):  # not the terminal that controls this process
            return True


def _is_terminal(stream: Any) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # None, or closed
        return False


def _log_handlers() -> list[logging.StreamHandler]:
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    return [handler for handler in handlers if isinstance(handler, logging.StreamHandler)]


def _frame(lines: Sequence[Line]) -> str:
    return "".join(f"{line.text}\x1b[K\n" for line in lines) + "\x1b[J" * bool(lines)


class _Above:
    """A stream on the terminal of pinned lines."""

    def __init__(self, lines: _Pinned, stream: TextIO):
        self._lines, self._stream = lines, stream

    def write(self, text: str) -> int:
        """As a text stream does."""
        self._lines.write_above(self._stream, text)
        return len(text)

    def writelines(self, texts: Sequence[str]) -> None:
        """As a text stream does."""
        self.write("".join(texts))

    def flush(self) -> None:
        """As a text stream does, but a line that has not ended waits."""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
