"""The main job in one process and in two, one thread each: time from start to end, seconds of all steps, gold score.

    uv run benchmarks/processes.py [--seeds 3] [-- options of ppo-lm train]

    uv run benchmarks/processes.py --seeds 1 -- --batch_size 32 --steps 8 --eval_prompts 0

Nothing else should run on the machine, which needs two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PHASES = ("sampling", "scoring", "reward", "training")


def run(processes: int, seed: int, options: list[str], out: Path) -> tuple[float, list[dict]]:
    """The seconds that a run takes, and the rows of its metrics."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, "main.py", *options, "--seed", str(seed), "--output_dir", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    return seconds, [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def steps(rows: list[dict], name: str = "seconds") -> float:
    """The sum over all steps but the first, in which libraries prepare themselves."""
    return sum(row[name] for row in [row for row in rows if "seconds" in row][1:])


def gold(rows: list[dict]) -> str:
    measured = [row["monitor"] for row in rows if row.get("evaluation") == "sampled"]
    return f"{measured[-1]:.3f}" if measured else "not measured"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("options", nargs="*")
    arguments = parser.parse_args()
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as place:
            (one, alone), (two, both) = (
                run(number, seed, arguments.options, Path(place, str(number))) for number in (1, 2)
            )
        shares = ", ".join(
            f"{phase} {steps(both, f'seconds/{phase}') / steps(alone, f'seconds/{phase}'):.2f}" for phase in PHASES
        )
        print(
            f"seed {seed}: gold {gold(alone)} and {gold(both)}; {one:.0f} s and {two:.0f} s, {two / one:.2f} of the "
            f"time; its steps {steps(both) / steps(alone):.2f} ({shares})",
            flush=True,
        )


if __name__ == "__main__":
    main()
