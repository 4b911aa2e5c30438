"""What a command prints: it may lose its readers, or their disk may fill, but the command goes on."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO, cast

from ppo_lm.distributed.place import find_place
from ppo_lm.errors import StorageError


class LastingStream:
    """A text stream that is never in the way: once it cannot be written, it goes nowhere. `problem`: why, unless it is
    that a reader, such as `head`, has had enough."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.problem: OSError | None = None

    def write(self, text: str) -> int:
        """As a text stream does."""
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """As a text stream does."""
        self._attempt(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, method: Callable[..., object], *arguments: str) -> None:
        try:
            method(*arguments)
        except OSError as error:
            self._go_nowhere()
            if not isinstance(error, BrokenPipeError):
                self.problem = error
                self._report(error)

    def _go_nowhere(self) -> None:
        """Also for libraries in C, and for the rest of the buffer when Python shuts down."""
        with contextlib.suppress(OSError):  # a stream of a test has no descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def _report(self, error: OSError) -> None:
        if self is not sys.stderr:
            print(f"error: stdout cannot be written: {error.strerror}; nothing more is printed", file=sys.stderr)


def print_json(record: Mapping[str, Any]) -> None:
    """Print one JSON object, for a script."""
    print(json.dumps(record, indent=2))


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Make stdout and stderr `LastingStream`s in the block. If stdout could not be written, the block ends with the
    exit code of a `StorageError`, unless it ends with another one."""
    _fill_gaps()
    before = sys.stdout, sys.stderr
    streams = [LastingStream(_tolerant(stream)) for stream in before]
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in streams)
    code = None
    try:
        yield
    except SystemExit as exit:
        code = exit.code
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before
    if not code and streams[0].problem is not None:
        code = StorageError.exit_code
    if code is not None:
        raise SystemExit(code)


@contextlib.contextmanager
def only_one_speaks() -> Iterator[None]:
    """In the block, only the first of the processes of a launcher on this host prints anything."""
    if find_place().local_rank == 0:
        yield
        return
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def _fill_gaps() -> None:
    """Open what was closed when the process started (`>&-`), so that no file of a run gets its descriptor."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor


def _tolerant(stream: TextIO | None) -> TextIO:
    """The stream, with every character that its encoding lacks shown as an escape; one to nowhere if it is closed."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    return stream
