"""Where a step's time and memory go."""

from __future__ import annotations

import re
import resource
import sys
import time
from pathlib import Path

import torch


class PhaseClock:
    """Adds up the seconds of a step's phases: a lap ends where the next begins."""

    def __init__(self, device: torch.device):
        self.device, self.seconds, self._last = device, {}, time.perf_counter()

    def start(self) -> None:
        """Forget the laps so far; the first begins now."""
        self.seconds, self._last = {}, self._now()

    def lap(self, phase: str) -> None:
        """What was done since the last lap was `phase`."""
        now = self._now()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # or the seconds would be those of asking, not of doing
        return time.perf_counter()


def peak_memory(device: torch.device) -> float:
    """The most memory used so far, in MiB: on a GPU what torch had allocated there, on a CPU what the whole process
    held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path(
        "/proc/self/status"
    )  # Linux; getrusage there counts what the parent process held when it started this one
    found = (
        re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="ascii"), re.MULTILINE) if status.exists() else None
    )
    if found:
        return int(found[1]) / 2**10
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / 2**20 if sys.platform == "darwin" else held / 2**10
