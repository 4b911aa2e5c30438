"""Kill runs of every stage repeatedly at random moments, resume them, and compare them with undisturbed runs.

    uv run benchmarks/kill_campaign.py [--kills 300] [--only sft] [--seed 0]

The runs train a very small model with random weights and save a checkpoint before every second step. Kills are spread
over twelve kinds: `sft`, `reward`, `value`, PPO with six kinds of settings, PPO in two processes of which one is
killed, the extension of a finished PPO run, and `collect`, where pairs are judged meanwhile. Each process is killed
while it loads, in a step, while it writes a checkpoint, or while it writes the results; which and when is random. Then
the run is resumed, or started again with --overwrite if it has no checkpoint yet. At the end, the whole folder must be
equal to that of an undisturbed run but for times, and no step may be repeated once the results were being written.
Exits with code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from killing import (
    DIFFERENT,
    EARLY,
    FAILED,
    FAULTS,
    KILLS,
    SAVING,
    UNREADABLE,
    WRITING,
    Campaign,
    CollectCampaign,
    Kind,
    RunCampaign,
)
from small_runs import REWARD, Process, make_commands

STEPS, EXTENDED = 20, 32
KILLS_PER_RUN = 9
PPO = {  # settings whose runs have different things to save
    "PPO": "",
    "PPO, all weights": "--lora_r 0",
    "PPO, shared value backbone": "--value_backbone shared",
    "PPO, RLOO": "--advantage_estimator rloo --responses_per_prompt 2 --kl_in loss --entropy_coef 0.01",
    "PPO, adaptive KL, best": "--adaptive_kl_target 0.1 --adaptive_kl_horizon 40 --eval_every 3 "
    "--monitor length_target(words=2)",
    "PPO, reward model": "--top_k 20 --top_p 0.9 --whiten_rewards true --reward_normalise true "
    "--gradient_checkpointing true --value_target returns --rollout_slots 3",
}


class Collection(Kind):
    """`ppo-lm collect`, which continues when it is started again."""

    def command(self, out: Path) -> list[str]:
        return [*self.arguments, "--output_dir", str(out)]


class Extension(Kind):
    """Extends a finished run."""

    def prepare(self, out: Path) -> None:
        """Make a finished run; all have the same."""
        finished = out.with_name("finished")
        if not finished.exists():
            complete([*self.arguments, "--output_dir", str(out)], out.parent)
            out.rename(finished)
        shutil.copytree(finished, out)

    def command(self, out: Path) -> list[str]:
        return [self.arguments[0], "--resume", str(out), "--steps", str(EXTENDED)]


def complete(arguments: list[str], place: Path) -> None:
    """Run a command."""
    code, said = Process(arguments, place).wait()
    if code:
        sys.exit(said)


def make_campaigns(place: Path, chance: random.Random) -> list[Campaign]:
    commands = make_commands(place, epochs=8, steps=STEPS, pairs=25)
    ppo = [*commands["train"], "--learning_rate", "1e-3", "--ppo_epochs", "2"]
    kinds = {name: Kind(commands[name]) for name in ("sft", "reward", "value")}
    kinds |= {name: Kind([*ppo, *settings.split()]) for name, settings in PPO.items()}
    kinds["PPO, two processes"] = Kind(kinds["PPO"].arguments, processes=2)
    kinds["extension"] = Extension(kinds["PPO, adaptive KL, best"].arguments)
    complete([*commands["reward"], "--output_dir", str(place / "judge")], place)
    scored = kinds["PPO, reward model"].arguments
    scored[scored.index(REWARD)] = str(place / "judge" / "reward")
    runs = [RunCampaign(name, kind, place, chance) for name, kind in kinds.items()]
    return [*runs, CollectCampaign("collect", Collection(commands["collect"]), place, chance)]


def conduct(campaign: Campaign, kills: int) -> None:
    """One run after another, until there were `kills` kills."""
    campaign.undisturbed()
    while campaign.counts[KILLS] < kills and not any(campaign.counts[fault] for fault in FAULTS):
        campaign.run(min(kills - campaign.counts[KILLS], KILLS_PER_RUN))


def show(name: str, counts: Counter[str]) -> None:
    print(
        f"{name}: {counts[KILLS]} kills, {counts[WRITING]} of them in the write of a checkpoint or an answer, "
        f"{counts[SAVING]} in the final save, {counts[EARLY]} before the first checkpoint; "
        f"unreadable: {counts[UNREADABLE]}; failed resumes: {counts[FAILED]}; differences: {counts[DIFFERENT]}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--only", help="a single kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    started, total = time.monotonic(), Counter()
    with tempfile.TemporaryDirectory() as place:
        campaigns = make_campaigns(Path(place), random.Random(arguments.seed))
        chosen = [campaign for campaign in campaigns if arguments.only in (None, campaign.name)]
        for number, campaign in enumerate(chosen):
            conduct(campaign, arguments.kills // len(chosen) + (number < arguments.kills % len(chosen)))
            show(campaign.name, campaign.counts)
            total += campaign.counts
    show(f"all, in {time.monotonic() - started:.0f} s", total)
    sys.exit(any(total[fault] for fault in FAULTS))


if __name__ == "__main__":
    main()
