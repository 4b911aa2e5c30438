"""Watchmen of processes that do nothing, and cannot be told anything."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from ppo_lm.distributed import watch

QUICK = ["--beat", "0.1", "--silence", "1", "--grace", "0.5"]
HANGS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"


class Hanging:
    """A process that hangs in a library, and its watchman."""

    def __init__(self, rank, size, *where):
        self.process = subprocess.Popen([sys.executable, "-S", "-c", HANGS], stdout=subprocess.PIPE)
        who = ["--rank", str(rank), "--size", str(size), "--pid", str(self.process.pid), "--token", "secret"]
        self.watchman = subprocess.Popen(
            [sys.executable, "-S", watch.__file__, *who, *QUICK, *where, *["--speaks"] * (rank == 0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def dies(self):
        """The pipe to its watchman closes."""
        self.process.kill()
        self.watchman.stdin.close()

    def says_goodbye(self):
        self.watchman.stdin.write("bye\n")
        self.watchman.stdin.close()
        self.watchman.wait(10)

    def ended(self):
        return self.process.wait(10)

    def stop(self):
        for process in (self.process, self.watchman):
            process.kill()
            process.wait()


@pytest.fixture
def three():
    first = Hanging(0, 3)
    port = first.watchman.stdout.readline().strip()
    team = [first, *(Hanging(rank, 3, "--host", "127.0.0.1", "--port", port) for rank in (1, 2))]
    for one in team:
        one.process.stdout.readline()
    team[0].port = int(port)
    time.sleep(0.5)  # they have met
    yield team
    for one in team:
        one.stop()


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_the_death_of_one_ends_those_that_hang(three, rank):
    dead = three.pop(rank)
    dead.dies()
    for one in three:
        assert one.ended() == -signal.SIGKILL
        said = one.watchman.communicate(timeout=10)[1]
        expected = f"error: process {rank} of 3 ended or cannot be reached, so process 0 was stopped; resume the run"
        assert said.startswith(expected) if one.watchman.args[4] == "0" else not said


def test_a_host_that_is_silent_is_lost_too(three):
    os.kill(three[2].watchman.pid, signal.SIGSTOP)  # no connection ends
    assert three[0].ended() == three[1].ended() == -signal.SIGKILL


def test_who_says_goodbye_is_not_missed(three):
    three[1].says_goodbye()
    time.sleep(2)
    assert three[0].process.poll() is three[2].process.poll() is None
    three[0].says_goodbye()
    time.sleep(1)
    assert three[2].process.poll() is None


@pytest.mark.parametrize("rank", [0, 2])
def test_a_process_that_answers_in_time_is_not_killed_and_those_that_hang_are(three, rank):
    three[1].dies()
    three[rank].watchman.stdin.close()  # it has noticed, and saves
    assert three[2 - rank].ended() == -signal.SIGKILL
    assert three[rank].process.poll() is None


def test_a_stranger_is_not_heard(three):
    with socket.create_connection(("127.0.0.1", three[0].port)) as stranger:
        stranger.sendall(b"hello wrong 1\nlost 1\n")
        stranger.settimeout(10)
        while stranger.recv(100):  # beats, until it is turned away
            pass
    time.sleep(1.5)
    assert all(one.process.poll() is None for one in three)
