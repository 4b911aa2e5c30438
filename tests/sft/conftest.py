"""Demonstrations, and signals that come in the middle of a supervised stage."""

import json
import os

DEMONSTRATIONS = [{"prompt": f"POST: I moved out {n} times. TL;DR:", "completion": "I am upset."} for n in range(40)]


def write(file, rows):
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def signalling(number, at):
    """`Optimiser.step` that sends the process a signal in its `at`-th call."""
    from ppo_lm.optimisation import Optimiser

    step, calls = Optimiser.step, []

    def signalled(self):
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), number)
        return step(self)

    Optimiser.step = signalled
    return lambda: setattr(Optimiser, "step", step)
