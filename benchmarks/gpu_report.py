"""The results of `gpu_check.sh` as a table in Markdown.

    uv run benchmarks/gpu_report.py [FOLDER]    # runs/gpu_check, or a folder of benchmarks/results

Medians over the measured steps, without the first two, in which a GPU's libraries prepare themselves and graphs are
recorded. The minimum is that of `ppo_lm/tracking/floor.py`.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

PHASES = ("sampling", "scoring", "training", "step")
WARM_UP = 2


def medians(steps: list[dict]) -> dict[str, float]:
    return {phase: statistics.median(step[phase] for step in steps) for phase in PHASES}


def with_reward(least: dict[str, float]) -> dict[str, float]:
    """As `our_ppo.time_steps` counts seconds: the reward model's with those of scoring."""
    return {**least, "scoring": least["scoring"] + least["reward"]}


def main(folder: Path) -> None:
    steps = [json.loads(line) for line in (folder / "gpu_step.jsonl").read_text().splitlines()]
    steps, about = steps[WARM_UP:] or steps, steps[0]
    ours, least = medians(steps), medians([with_reward(step["least"]) for step in steps])
    memory = max(step["peak_memory_mib"] for step in steps)
    rows = {
        "ours, s": [f"{ours[phase]:.2f}" for phase in PHASES] + [f"{memory:,.0f}"],
        "hardware minimum, s": [f"{least[phase]:.2f}" for phase in PHASES] + [""],
        "ours / minimum": [f"{ours[phase] / least[phase]:.1f}" for phase in PHASES] + [""],
    }
    if theirs := read_trl(folder / "trl.json"):
        found, peak = medians(theirs), max(step["peak_memory_mib"] for step in theirs)
        rows["TRL, s"] = [f"{found[phase]:.2f}" for phase in PHASES] + [f"{peak:,.0f}"]
        rows["TRL / ours"] = [f"{found[phase] / ours[phase]:.1f}" for phase in PHASES] + [f"{peak / memory:.1f}"]
    run = json.loads((folder / "about.json").read_text())
    print(f"{about['workload']}, {about['card']}, torch {about['torch']}, {run['date']}, commit {run['commit']}")
    print("; ".join(filter(None, [f"medians of {len(steps)} steps", about.get("model"), run["remark"]])) + "\n")
    print(f"| | {' | '.join(PHASES)} | peak memory, MiB |")
    print("|---|" + "---|" * (len(PHASES) + 1))
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


def read_trl(file: Path) -> list[dict]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return []


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/gpu_check"))
