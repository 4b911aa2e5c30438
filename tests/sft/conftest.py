"""Demonstrations, and signals that come in the middle of a supervised stage."""

import json
import os
from contextlib import contextmanager

from ppo_lm.optimisation import Optimiser

DEMONSTRATIONS = [{"prompt": f"POST: I moved out {n} times. TL;DR:", "completion": "I am upset."} for n in range(40)]


def write(file, rows):
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


@contextmanager
def signalling(number, at):
    """`Optimiser.step` sends the process a signal in its `at`-th call."""
    step, calls = Optimiser.step, []

    def signalled(self):
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), number)
        return step(self)

    Optimiser.step = signalled
    try:
        yield
    finally:
        Optimiser.step = step
