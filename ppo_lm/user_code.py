"""The boundary to code that a user wrote: whatever happens in there becomes one error that says where."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import signal
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ppo_lm.errors import UserError, first_line

Result = TypeVar("Result")

OURS = Path(__file__).parent
PLUMBING = [OURS, *(Path(module.__file__ or "") for module in (contextlib, threading))]
PLUMBING += [Path(package.__file__ or "").parent for package in (asyncio, concurrent.futures)]
LIBRARIES = ("accelerate", "numpy", "peft", "safetensors", "tokenizers", "torch", "transformers")  # that ours calls
SHOWN_FRAMES = 8
LONGEST_TIMER = threading.TIMEOUT_MAX / 2  # seconds; a clock runs over beyond that
WAKE_UP = getattr(signal, "SIGURG", None)  # of POSIX: ignored by default, and nobody's timer


class TimeLimitReached(BaseException):
    """Raised in code that takes too long. It is no `Exception`, so that `except Exception` does not swallow it."""


@contextlib.contextmanager
def user_code(what: str, when: str, error: Callable[[str], UserError], *passing: type[UserError]) -> Iterator[None]:
    """Turn anything that the block raises, `SystemExit` included, into an `error` that says what raised it and when,
    and shows the user's part of the traceback; the error's `traceback` is all of it. `passing` errors pass unchanged,
    the messages of other `UserError`s too, and `KeyboardInterrupt` if it is the keyboard's.

    Example::

        with user_code("reward brevity", "on a batch of 8 responses", RewardError, NumericalFault):
            scores = brevity(prompts, completions)
    """
    try:
        yield
    except passing:
        raise
    except UserError as raised:
        raise error(str(raised)) from raised
    except BaseException as raised:
        if _is_from_the_keyboard(raised):
            raise
        raise _converted(raised, what, when, error, _frames_between_ours(raised)) from raised


@contextlib.contextmanager
def users_parts(when: str, error: Callable[[str], UserError]) -> Iterator[None]:
    """The same for a block of ours that calls the user's own parts, such as a loss or an engine: only what comes from
    a file that is not ours, Python's or one of the `LIBRARIES` is turned into an `error`."""
    try:
        yield
    except UserError:
        raise
    except BaseException as raised:
        frames = _frames_between_ours(raised)
        theirs = [frame for frame in frames if not _is_from_a_library(frame.filename)]
        if not theirs or _is_from_the_keyboard(raised):
            raise
        raise _converted(raised, f"{theirs[-1].name}()", when, error, frames) from raised


def copied(value: Any) -> Any:
    """A copy of nested lists, tuples and dictionaries, which user code may change; other values of data do not
    change."""
    if type(value) in (list, tuple):
        return type(value)(copied(each) for each in value)
    return {key: copied(each) for key, each in value.items()} if isinstance(value, Mapping) else value


def call_within(seconds: float, call: Callable[[], Result]) -> Result:
    """`call()`. Raises `TimeLimitReached` where the call is after `seconds` (0: no limit).

    In the main thread of a POSIX system the call itself is interrupted, even while it sleeps or waits for a socket, but
    not inside a C function that does not return to Python. Elsewhere it runs in a thread, which is left behind.
    """
    if not seconds:
        return call()
    seconds = min(seconds, LONGEST_TIMER)
    late = TimeLimitReached(f"did not return within {seconds:g} seconds")
    if threading.current_thread() is threading.main_thread() and WAKE_UP:
        with _interrupted_after(seconds, WAKE_UP, late):
            return call()
    return _call_in_a_thread(seconds, call, late)


@contextlib.contextmanager
def _interrupted_after(seconds: float, number: signal.Signals, late: TimeLimitReached) -> Iterator[None]:
    running = True

    def interrupt(*_) -> None:
        if running:
            raise late

    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(seconds, signal.pthread_kill, (main, number))
    timer.daemon = True
    before = signal.signal(number, interrupt)
    timer.start()
    try:
        yield
    finally:
        running = False
        timer.cancel()
        timer.join()
        signal.signal(number, before)


def _call_in_a_thread(seconds: float, call: Callable[[], Result], late: TimeLimitReached) -> Result:
    future: concurrent.futures.Future[Result] = concurrent.futures.Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as raised:
            future.set_exception(raised)

    threading.Thread(target=work, daemon=True).start()
    try:
        return future.result(seconds)
    except concurrent.futures.TimeoutError:
        if future.done():  # the call itself raised it
            raise
        raise late from None


def _is_from_the_keyboard(raised: BaseException) -> bool:
    """Not while a run remembers signals for the end of the step: then only code raises `KeyboardInterrupt`."""
    by_signal = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(raised, KeyboardInterrupt) and by_signal


def _describe(raised: BaseException, when: str) -> str:
    if isinstance(raised, TimeLimitReached):
        return str(raised)
    try:
        reason = first_line(raised)
    except Exception:  # their __str__ raises too
        reason = ""
    name = type(raised).__name__
    return f"raised {name} {when}" if reason in ("", name) else f"raised {name} {when}: {reason}"


def _converted(
    raised: BaseException,
    what: str,
    when: str,
    error: Callable[[str], UserError],
    frames: list[traceback.FrameSummary],
) -> UserError:
    lines = traceback.format_list(frames[-SHOWN_FRAMES:])
    found = error(f"{what} {_describe(raised, when)}" + "".join(f"\n{line.rstrip()}" for line in lines))
    found.traceback = "".join(_format(raised))
    return found


def _frames_between_ours(raised: BaseException) -> list[traceback.FrameSummary]:
    """The frames between ours on both sides."""
    frames = traceback.extract_tb(raised.__traceback__)
    theirs = [place for place, frame in enumerate(frames) if not _is_plumbing(frame.filename)]
    return frames[theirs[0] : theirs[-1] + 1] if theirs else []


def _is_plumbing(filename: str) -> bool:
    file = Path(filename)
    return filename.startswith("<frozen ") or any(file == place or place in file.parents for place in PLUMBING)


def _is_from_a_library(filename: str) -> bool:
    if filename.startswith("<"):
        return not filename.startswith("<ipython")  # a cell of a notebook
    file, packages = Path(filename), [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    for place in packages:
        if place in file.parents:
            return file.relative_to(place).parts[0] in LIBRARIES
    return Path(sysconfig.get_path("stdlib")) in file.parents


def _format(raised: BaseException) -> list[str]:
    try:
        return traceback.format_exception(raised)
    except Exception:  # their __str__ raises too
        return traceback.format_tb(raised.__traceback__)
