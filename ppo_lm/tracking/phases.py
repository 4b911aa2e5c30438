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
        """Reset, and begin the first lap."""
        self.seconds, self._last = {}, self._now()

    def lap(self, phase: str) -> None:
        """Attribute the time since the last lap to `phase`."""
        now = self._now()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # or this would time the launches, not the work
        return time.perf_counter()


def peak_memory(device: torch.device) -> float:
    """Peak memory so far, in MiB: what torch allocated on a GPU, otherwise what the whole process held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")  # Linux, where getrusage includes the parent process's memory at the fork
    found = (
        re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="ascii"), re.MULTILINE) if status.exists() else None
    )
    if found:
        return int(found[1]) / 2**10
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / 2**20 if sys.platform == "darwin" else held / 2**10
