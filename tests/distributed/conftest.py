"""Several processes on this machine that train together, as torchrun starts them."""

import os
import pickle
import socket
import time
from multiprocessing.connection import wait

import pytest
import torch

from ppo_lm.distributed import join, leave
from tests.conftest import FORKED

TIMEOUT = 240  # seconds


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment_of(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def in_processes(size, function, *arguments, **options):
    """Call a function in `size` processes that have joined. Returns what it returned in each, or the exception."""
    port, ends, started = free_port(), [], []
    for rank in range(size):
        here, there = FORKED.Pipe(duplex=False)
        process = FORKED.Process(
            target=_call, args=(there, environment_of(rank, size, port), function, arguments, options)
        )
        process.start()
        there.close()
        ends.append(here)
        started.append(process)
    try:
        return _results(ends, time.monotonic() + TIMEOUT)
    finally:
        for process in started:
            process.kill()
            process.join()


def _results(ends, deadline):
    found = {}
    while len(found) < len(ends):
        ready = wait([end for end in ends if end not in found], max(deadline - time.monotonic(), 0))
        if not ready:
            pytest.fail(f"processes {[rank for rank, end in enumerate(ends) if end not in found]} hang")
        for end in ready:
            try:
                found[end] = pickle.loads(end.recv_bytes())
            except EOFError:
                found[end] = SystemExit("the process ended")
    return [found[end] for end in ends]


def _call(end, environment, function, arguments, options):
    if environment["WORLD_SIZE"] != "1":
        os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        join()
        result = function(*arguments, **options)
        leave()
    except Exception as error:
        result = error
    end.send_bytes(pickle.dumps(result))
