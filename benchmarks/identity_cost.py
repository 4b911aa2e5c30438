"""How long a run takes to identify its base model when it starts, beside loading it.

uv run benchmarks/identity_cost.py [MODEL]       MODEL: smollm2 (SmolLM2-135M-Instruct, 4-bit, dequantised) or tiny
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

from workloads import prepare

from ppo_lm.base_setup import load_base
from ppo_lm.run.identity import identify_base

REPEATS = 5


def main(model: str = "smollm2") -> None:
    """Print both times and their ratio."""
    folder = str(prepare(Path("runs/models"), model) / "policy")
    loading, identifying = [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        base = load_base(folder, "float32", "cpu")
        loaded = time.perf_counter()
        identify_base(base)
        loading.append(loaded - start)
        identifying.append(time.perf_counter() - loaded)
    load, identify = statistics.median(loading), statistics.median(identifying)
    print(f"{model}: loading {load:.2f} s, identifying {identify:.2f} s ({identify / load:.2f} of loading)")


if __name__ == "__main__":
    main(*sys.argv[1:])
