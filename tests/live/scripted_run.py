"""A run that is a script of events, for the tests that look at it on a terminal: `scripted_run.py FOLDER` waits for the
files FOLDER/1, FOLDER/2, ... where a test looks."""

import logging
import sys
import time
from pathlib import Path

from ppo_lm.cli.output import lasting_output
from ppo_lm.config import PPOConfig
from ppo_lm.health import Finding
from ppo_lm.live import screens
from ppo_lm.progress import phase
from ppo_lm.run.interrupts import Interrupts
from ppo_lm.tracking import Column, EvaluationDone, RunFinish, RunStart, SamplesDrawn, StepDone

EVIL = "a\x1b[2J\x1b]0;owned\x07\u202e\n" + "漢字" * 50_000
COLUMNS = [Column("score", "reward"), Column("kl", "KL", "5.2f")]
places = iter(range(1, 100))


def wait(folder: Path) -> None:
    file = folder / str(next(places))
    for _ in range(600):
        if file.exists():
            return
        time.sleep(0.05)
    raise SystemExit(f"nobody made {file}")


def step(recorders, number: int) -> None:
    metrics = {"score": number / 2, "kl": 0.25, "entropy": 1.0, "explained_variance": 0.5, "reward/a": 1.0}
    cost = {"seconds": 2.0, "seconds/sampling": 0.5, "tokens_per_second": 10.0, "peak_memory_mib": 100.0}
    for recorder in recorders:
        recorder.step(StepDone(number, 6, {**metrics, "reward/b": 2.0, **cost}))
        recorder.samples(SamplesDrawn(number, [EVIL], [EVIL], [0.5], {}))


def main(folder: Path) -> None:
    recorders = screens()
    notices = [f"notice {number}" for number in range(10)]
    for recorder in recorders:
        recorder.start(RunStart("PPO on a script", PPOConfig(), None, 6, notices=notices, columns=COLUMNS))
    step(recorders, 1)
    print("printed by a reward")
    print("printed in", end=" ")
    with phase("training", 4, "updates") as training:
        training.done = 3
        wait(folder)
    print("two parts")
    print("printed on stderr", file=sys.stderr)
    logging.warning("a warning")
    step(recorders, 2)
    for recorder in recorders:
        recorder.finding(Finding("kl", "the KL is running away"))
        recorder.evaluation(EvaluationDone(2, 7, {"held out": {"score": 0.25, "kl": 1.0}}))
    wait(folder)
    for number in range(3, 7):
        step(recorders, number)
        wait(folder)
    for recorder in recorders:
        recorder.finish(RunFinish(None, 6))
    for recorder in recorders:
        recorder.close()
    print("the end")


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")  # writes to the present stderr, whatever replaces it
    with lasting_output(), Interrupts():
        main(Path(sys.argv[1]))
