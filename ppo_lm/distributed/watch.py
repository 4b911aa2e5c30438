"""Notices within a minute that a process of the run has died, on whatever host, also where this one cannot.

gloo raises an error at once if a process dies, but waits for days if a host is cut off; NCCL waits in both cases,
inside a library, where no signal handler and no thread of Python's can help. So every process has a watchman, a process
of its own that needs nothing but Python (this file). Its end of a pipe closes when its process dies, however that
happens. The first process's watchman listens, the others connect to it, and all send beats. Who loses another one gives
its own process some time to say goodbye, to save what it can for example, and then kills it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import time

BEAT, SILENCE, GRACE = 2.0, 20.0, 15.0  # seconds: between beats, until silence is a loss, until its process is killed
LARGEST_LINE = 200  # bytes
HELLO, BYE, LOST, PULSE = "hello", "bye", "lost", "beat"


class Watch:
    """The watchman of this process."""

    def __init__(self, arguments: list[str], rank: int, size: int, speaks: bool):
        """`speaks`: whether it prints why it kills its process."""
        who = ["--rank", str(rank), "--size", str(size), "--pid", str(os.getpid()), *["--speaks"] * speaks]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *who, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is not for it
        )

    @classmethod
    def first(cls, size: int) -> tuple[Watch, int, str]:
        """That of the first process, the port it listens on, and the password of the others."""
        token = secrets.token_hex(16)
        watch = cls(["--token", token], 0, size, True)
        assert watch._process.stdout is not None  # it is a pipe
        return watch, int(watch._process.stdout.readline()), token

    @classmethod
    def other(cls, rank: int, size: int, speaks: bool, host: str, port: int, token: str) -> Watch:
        """That of another process, which connects to the first one's."""
        return cls(["--token", token, "--host", host, "--port", str(port)], rank, size, speaks)

    def dismiss(self, goodbye: bool = True) -> None:
        """Kill this process no more, whoever ends. With `goodbye`, the others do not miss it either; without, they end
        as if it had died."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(OSError):  # it has gone
                self._process.stdin.write(f"{BYE}\n".encode() if goodbye else b"")
                self._process.stdin.close()
            self._process.wait()


class _Peer:
    """The watchman of another process, at the other end of a connection."""

    def __init__(self, connection: socket.socket, rank: int | None):
        self.connection, self.rank = connection, rank
        self.heard, self.unended, self.said_bye = time.monotonic(), "", False

    def say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # its end is noticed where it is read from
            self.connection.sendall(f"{line}\n".encode())

    def lines(self) -> list[str] | None:
        """What it has said; None if it has gone."""
        try:
            found = self.connection.recv(4096).decode(errors="replace")
        except OSError:
            found = ""
        if not found or len(self.unended) > LARGEST_LINE:
            return None
        self.heard = time.monotonic()
        *whole, self.unended = (self.unended + found).split("\n")
        return whole


class _Watchman:
    def __init__(self, options: argparse.Namespace):
        self.options, self.peers = options, list[_Peer]()
        self.selector = selectors.DefaultSelector()
        self.selector.register(sys.stdin.buffer, selectors.EVENT_READ, "process")
        self.killed_at: float | None = None
        self.reason = ""
        self.is_over = False

    def meet(self) -> None:
        if self.options.port:
            connection = socket.create_connection((self.options.host, self.options.port), timeout=SILENCE)
            self._add(_Peer(connection, 0)).say(f"{HELLO} {self.options.token} {self.options.rank}")
            return
        listener = socket.create_server(("", 0))
        self.selector.register(listener, selectors.EVENT_READ, "listener")
        print(listener.getsockname()[1], flush=True)

    def _add(self, peer: _Peer) -> _Peer:
        peer.connection.settimeout(SILENCE)
        self.peers.append(peer)
        self.selector.register(peer.connection, selectors.EVENT_READ, peer)
        return peer

    def _remove(self, peer: _Peer) -> None:
        self.peers.remove(peer)
        self.selector.unregister(peer.connection)
        peer.connection.close()

    def watch(self) -> None:
        last_beat = 0.0
        while not self.is_over:
            for key, _ in self.selector.select(self.options.beat / 2):
                if key.data == "process":
                    self._hear_process()
                elif key.data == "listener":
                    self._add(_Peer(key.fileobj.accept()[0], None))  # pyright: ignore
                elif key.data in self.peers:
                    self._hear(key.data)
            now = time.monotonic()
            if now - last_beat >= self.options.beat:
                last_beat = now
                for peer in self.peers:
                    peer.say(PULSE)
            for peer in [peer for peer in self.peers if now - peer.heard > self.options.silence]:
                self._lose(peer)
            if self.killed_at is not None and now >= self.killed_at:
                self._kill()

    def _hear_process(self) -> None:
        said = os.read(sys.stdin.fileno(), 100).decode()
        for peer in self.peers if BYE in said else ():
            peer.say(BYE)
        self.is_over = True  # it said goodbye, or it died: the others see the connection end

    def _hear(self, peer: _Peer) -> None:
        lines = peer.lines()
        for line in lines or ():
            word, *rest = line.split() or [""]
            if peer.rank is None:
                if (word, rest[:1]) != (HELLO, [self.options.token]):
                    return self._remove(peer)  # a stranger
                peer.rank = int(rest[1])
            elif word == BYE:
                peer.said_bye = True
            elif word == LOST:
                self._mourn(int(rest[0]))
        if lines is None:
            self._lose(peer)

    def _lose(self, peer: _Peer) -> None:
        self._remove(peer)
        if peer.rank is None or peer.said_bye:
            return
        for other in self.peers:
            other.say(f"{LOST} {peer.rank}")
        self._mourn(peer.rank)

    def _mourn(self, rank: int) -> None:
        if self.killed_at is None:
            self.killed_at = time.monotonic() + self.options.grace
            self.reason = f"process {rank} of {self.options.size} ended or cannot be reached"

    def _kill(self) -> None:
        if self.options.speaks:
            line = (
                f"error: {self.reason}, so process {self.options.rank} was stopped; "
                "resume the run from its last checkpoint"
            )
            print(line, file=sys.stderr, flush=True)
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.kill(self.options.pid, signal.SIGKILL)
        self.is_over = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--pid", type=int)
    parser.add_argument("--token")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--speaks", action="store_true")
    parser.add_argument("--beat", type=float, default=BEAT)
    parser.add_argument("--silence", type=float, default=SILENCE)
    parser.add_argument("--grace", type=float, default=GRACE)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the processes, which answer in their own time
    watchman = _Watchman(parser.parse_args())
    watchman.meet()
    watchman.watch()


if __name__ == "__main__":
    main()
