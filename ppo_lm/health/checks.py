"""Checks a run's metrics for the known failure modes of PPO."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from ppo_lm.config import PPOConfig

WINDOW = 10  # the latest steps, over which metrics are averaged
KL_A_TOKEN = 1.0  # nats
ENTROPY_LEFT = 0.1  # of its value in the first steps
CLIPPED = 0.4  # share of tokens
CLIPPED_TO = 10.0  # times max_grad_norm
SAMPLER_GAP = 0.1  # nats per token; rounding to bfloat16 causes about 0.03
UNENDED = 0.5  # share of responses
EMPTY = 0.5  # share of responses
SURELY = 4.0  # standard errors by which a monitor must have fallen


class Finding(NamedTuple):
    """`name`, one of `EARLY_CHECKS` or `CHECKS`; `text`: what was seen, with its number, and the usual remedies."""

    name: str
    text: str


def check_health(steps: Sequence[dict], config: PPOConfig) -> list[Finding]:
    """The findings in the metrics of a run's steps (rows of metrics.jsonl, oldest first): those of `EARLY_CHECKS` from
    the first step on, the others once the policy was trained in `WINDOW` steps."""
    found = {name: check(steps, config) for name, check in EARLY_CHECKS.items()} if steps else {}
    trained = [row for row in steps if "policy_loss" in row]
    if len(trained) >= WINDOW:
        found |= {name: check(trained, config) for name, check in CHECKS.items()}
    return [Finding(name, text) for name, text in found.items() if text]


def steps_of(rows: Sequence[dict]) -> list[dict]:
    """The rows of metrics.jsonl that belong to steps, without skipped ones."""
    return [row for row in rows if "evaluation" not in row and "dropped" not in row]


def _latest(steps: Sequence[dict], name: str) -> float:
    return fmean(row[name] for row in steps[-WINDOW:])


def _first(steps: Sequence[dict], name: str) -> float:
    return fmean(row[name] for row in steps[:WINDOW])


def _cut_off(steps: Sequence[dict], config: PPOConfig) -> str | None:
    if not all("ended" in row for row in steps[:WINDOW]):
        return None
    ended = _first(steps, "ended")
    if ended < UNENDED:
        return (
            f"{1 - ended:.0%} of the responses were cut off at max_new_tokens ({config.max_new_tokens}) in the first "
            "steps, so the reward sees unfinished answers; raise max_new_tokens, or set missing_eos_score"
        )


def _empty(steps: Sequence[dict], config: PPOConfig) -> str | None:
    if not all("empty" in row for row in steps[-WINDOW:]):  # written by an earlier version
        return None
    empty = _latest(steps, "empty")
    if empty > EMPTY:
        return (
            f"{empty:.0%} of the responses are empty, so there is nothing to score; check in samples.jsonl that "
            "prompts stop where an answer should begin, or fine-tune the model with `ppo-lm sft` first"
        )


def _kl(steps: Sequence[dict], config: PPOConfig) -> str | None:
    kl, length = _latest(steps, "kl"), max(_latest(steps, "length"), 1.0)
    if kl / length > KL_A_TOKEN:
        return (
            f"the KL to the reference is running away: {kl:.1f} nats per response, {kl / length:.2f} per token; raise "
            f"kl_coef ({config.kl_coef}), or lower learning_rate"
        )


def _entropy(steps: Sequence[dict], config: PPOConfig) -> str | None:
    if "entropy" not in steps[-1]:  # the engine does not report it
        return None
    then, now = _first(steps, "entropy"), _latest(steps, "entropy")
    if now < ENTROPY_LEFT * then:
        return (
            f"the entropy has collapsed, from {then:.3f} to {now:.3f} nats per token: responses hardly vary; lower "
            "learning_rate, raise kl_coef, or stop earlier"
        )


def _clipped_often(steps: Sequence[dict], config: PPOConfig) -> str | None:
    if "clip_fraction" not in steps[-1]:  # the policy loss clips nothing
        return None
    share = _latest(steps, "clip_fraction")
    if share > CLIPPED:
        return (
            f"{share:.0%} of the tokens are clipped: updates are too large; lower learning_rate, or ppo_epochs "
            f"({config.ppo_epochs})"
        )


def _clipped_never(steps: Sequence[dict], config: PPOConfig) -> str | None:
    if config.ppo_epochs * config.mini_batches > 1 and all(row.get("clip_fraction") == 0 for row in steps):
        return (
            f"no token has been clipped in {len(steps)} steps: the policy hardly moves; raise learning_rate "
            f"({config.learning_rate:g})"
        )


def _critic(steps: Sequence[dict], config: PPOConfig) -> str | None:
    if "explained_variance" not in steps[-1]:  # there is no value model
        return None
    explained = _latest(steps, "explained_variance")
    if len(steps) >= 2 * WINDOW and explained < 0:
        return (
            f"the value model predicts returns worse than a constant would (explained variance {explained:.2f}), so "
            f"advantages are noise; raise value_learning_rate ({config.value_learning_rate:g}), or start it from a "
            "reward model"
        )


def _sampler(steps: Sequence[dict], config: PPOConfig) -> str | None:
    gap = _latest(steps, "sampler_gap")
    if gap > SAMPLER_GAP:
        return (
            f"sampling and training disagree by {gap:.2f} nats per token before any update, so ratios start far from "
            "1; set dtype to float32, or old_logprobs to recomputed"
        )


def _length(steps: Sequence[dict], config: PPOConfig) -> str | None:
    then, now = _first(steps, "ended"), _latest(steps, "ended")
    if now < UNENDED and now < then - 0.2:
        return (
            f"responses are drifting towards the length limit: {1 - now:.0%} of them reach max_new_tokens "
            f"({config.max_new_tokens}), up from {1 - then:.0%} at first; set missing_eos_score, or use a reward that "
            "does not favour length"
        )


def _equal_rewards(steps: Sequence[dict], config: PPOConfig) -> str | None:
    if all(row["score_std"] <= 1e-6 for row in steps[-WINDOW:]):
        return (
            f"all responses of a batch get the same score ({_latest(steps, 'score'):.3g}), so there is nothing to "
            "learn; check the reward and samples.jsonl"
        )


def _monitor(steps: Sequence[dict], config: PPOConfig) -> str | None:
    windows = [steps[end - WINDOW : end] for end in range(WINDOW, len(steps) + 1, WINDOW)]
    known = [[row["monitor"] for row in window] for window in windows if all("monitor" in row for row in window)]
    if len(known) != len(windows) or len(windows) < 2:
        return None
    best = max(range(len(windows)), key=lambda i: fmean(known[i]))
    then, now = known[best], known[-1]
    error = ((stdev(then) ** 2 + stdev(now) ** 2) / WINDOW) ** 0.5
    if fmean(then) - fmean(now) > SURELY * error and _latest(windows[-1], "score") > _latest(windows[best], "score"):
        return (
            f"the reward is rising but the monitor is falling, from {fmean(then):.3f} around step "
            f"{windows[best][-1]['step']} to {fmean(now):.3f}: the policy is exploiting the reward; stop there, raise "
            "kl_coef, or improve the reward"
        )


def _gradient(name: str) -> Callable:
    def check(steps: Sequence[dict], config: PPOConfig) -> str | None:
        if all(row.get(name, 0.0) > CLIPPED_TO * config.max_grad_norm for row in steps[-WINDOW:]):
            whose, norm = name.split("_")[0], _latest(steps, name)
            rate = {"policy": "learning_rate", "value": "value_learning_rate"}[whose]
            return (
                f"the gradient of the {whose} is always clipped to less than a tenth (norm {norm:.2g} against "
                f"max_grad_norm {config.max_grad_norm:g}); raise max_grad_norm, or lower {rate}"
            )

    return check


Check = Callable[[Sequence[dict], PPOConfig], str | None]

EARLY_CHECKS: dict[str, Check] = {"cut off": _cut_off, "empty": _empty}

CHECKS: dict[str, Check] = {
    "kl": _kl,
    "entropy": _entropy,
    "clipped often": _clipped_often,
    "clipped never": _clipped_never,
    "critic": _critic,
    "sampler": _sampler,
    "length": _length,
    "equal rewards": _equal_rewards,
    "monitor": _monitor,
    "policy gradient": _gradient("policy_grad_norm"),
    "value gradient": _gradient("value_grad_norm"),
}


class HealthWatch:
    """Follows a run, and reports each finding of `check_health` once."""

    def __init__(self, config: PPOConfig):
        self.config = config
        self.steps: list[dict] = []
        self._told: set[str] = set()

    def start(self, history: Sequence[dict]) -> None:
        """`history`: the rows of metrics.jsonl so far."""
        self.steps = steps_of(history)

    def step(self, row: dict) -> list[Finding]:
        """The findings that are new in this step."""
        self.steps.append(row)
        new = [finding for finding in check_health(self.steps, self.config) if finding.name not in self._told]
        self._told |= {finding.name for finding in new}
        return new

    def state_dict(self) -> dict[str, list[str]]:
        """The names of the findings already reported."""
        return {"told": sorted(self._told)}

    def load_state_dict(self, state: Mapping[str, list[str]]) -> None:
        """Restore what `state_dict` returned."""
        self._told = set(state["told"])
