"""Attack every surface that users, files and networks reach with damaged input, in one process.

    uv run benchmarks/fuzz_campaign.py [--cases 10000] [--seed 0] [--only SURFACE] [--case NUMBER]

A case must be accepted, or refused with a `UserError`; a command must end with a documented exit code and without a
traceback. Anything else is a fault, and so are a case of over 10 seconds and over 2 GiB of memory. Exits with code 1 if
there is one; it prints how to repeat each.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", PYTHONWARNINGS="ignore")

import torch
from fuzz_surfaces import SURFACES, Place
from transformers.utils.logging import disable_progress_bar, set_verbosity

from ppo_lm.errors import UserError

SLOWEST = 10  # seconds
LARGEST = 2 * 2**30  # bytes
LONGEST_MESSAGE = 20_000  # characters; it may quote users' code
HUNG = 60  # seconds after which even a hang outside Python ends the campaign


class TooSlow(BaseException):
    """A case took too long."""


def too_slow(*_: object) -> None:
    """The handler of the alarm."""
    raise TooSlow(f"over {SLOWEST} seconds")


def peak_memory() -> int:
    """Of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def try_case(name: str, number: int, seed: int, place: Place) -> tuple[str, str, float]:
    """("accepted", "refused" or "fault", the message, seconds) of one case."""
    place.clear()
    draw = random.Random(f"{seed}/{name}/{number}")
    torch.manual_seed(number)
    signal.setitimer(signal.ITIMER_REAL, SLOWEST)
    faulthandler.dump_traceback_later(HUNG, exit=True, file=sys.__stderr__)
    started, result = time.monotonic(), ("accepted", "")
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            SURFACES[name].case(draw, place)
    except UserError as error:
        message = str(error)
        result = ("refused" if 0 < len(message) <= LONGEST_MESSAGE else "fault", message)
    except KeyboardInterrupt:
        raise
    except BaseException:
        result = "fault", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
    seconds = time.monotonic() - started
    return ("fault", f"over {SLOWEST} seconds", seconds) if seconds > SLOWEST else (*result, seconds)


def prepare(place: Place) -> None:
    """Make what the cases damage, so that no case is slow because it comes first."""
    for name in ("shared_base", "adapter", "reward", "value", "classifier", "finished_run", "scorer"):
        getattr(place, name)


def attack(name: str, numbers: range, seed: int, place: Place, show: bool) -> int:
    """Try cases of one surface and print a line of the table. Returns the number of faults."""
    counts, slowest, faults = Counter(), 0.0, 0
    started = time.monotonic()
    for number in numbers:
        outcome, message, seconds = try_case(name, number, seed, place)
        counts[outcome] += 1
        slowest = max(slowest, seconds)
        if show:
            print(f"{outcome} in {seconds:.2f} s: {message}")
        elif outcome == "fault":
            faults += 1
            print(f"fault: repeat it with --seed {seed} --only {name} --case {number}\n{message}", flush=True)
    print(
        f"{name:<20}{len(numbers):>7}{counts['accepted']:>10}{counts['refused']:>9}{counts['fault']:>8}"
        f"{slowest:>11.2f}{time.monotonic() - started:>9.0f}{peak_memory() / 2**20:>12.0f}",
        flush=True,
    )
    return counts["fault"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=SURFACES, help="one surface")
    parser.add_argument("--case", type=int, help="only this case of the surface; prints what it ended with")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    set_verbosity(50)
    signal.signal(signal.SIGALRM, too_slow)
    started, faults, tried = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        prepare(place)
        print(
            f"{'surface':<20}{'cases':>7}{'accepted':>10}{'refused':>9}{'faults':>8}{'slowest s':>11}{'all s':>9}"
            f"{'peak MiB':>12}"
        )
        whole = sum(each.share for each in SURFACES.values())
        for name in [arguments.only] if arguments.only else SURFACES:
            count = -(-arguments.cases * SURFACES[name].share // whole)
            numbers = range(count) if arguments.case is None else range(arguments.case, arguments.case + 1)
            faults += attack(name, numbers, arguments.seed, place, show=arguments.case is not None)
            tried += len(numbers)
        place.clear()
    memory = peak_memory()
    print(f"{tried} cases, {faults} faults, {time.monotonic() - started:.0f} s, peak memory {memory / 2**20:.0f} MiB")
    sys.exit(1 if faults or memory > LARGEST else 0)


if __name__ == "__main__":
    main()
