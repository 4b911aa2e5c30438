"""What the numbers of a run do not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ppo_lm.data.report import FEW
from ppo_lm.exporting.measured import Measured, count_examples
from ppo_lm.exporting.source import Source
from ppo_lm.health.checks import WINDOW
from ppo_lm.markdown import code, plain


def describe_limits(source: Source, evaluations: Sequence[Measured]) -> list[str]:
    """One sentence each, in Markdown."""
    record = source.record
    held_out, leaked = (count_examples(record, kind) for kind in ("held_out", "leaked"))
    sentences = []
    if not evaluations or not held_out:
        sentences.append("It was not evaluated on held-out data.")
    elif held_out < FEW:
        sentences.append(
            f"Evaluations are means over {held_out} held-out example{'s' * (held_out > 1)} only: read nothing into "
            "small differences."
        )
    if leaked:
        sentences.append(f"{leaked:,} of the {held_out:,} held-out examples have a prompt that is also trained on.")
    if source.stage == "train":
        sentences += [*_gap(evaluations), *_health(source)]
    if record["dropped"]:
        sentences.append(f"{len(record['dropped']):,} steps were skipped because of NaN or infinity.")
    return [*sentences, *_ends(source.settings), "Whether its answers are true, safe or fair was not evaluated."]


def _gap(evaluations: Sequence[Measured]) -> list[str]:
    """How the reward and the monitor, which is not trained on, moved."""
    for evaluation in evaluations:
        score, monitor = evaluation.change("score"), evaluation.change("monitor")
        if score and monitor:
            apart = score[1] > score[0] and monitor[1] < monitor[0]
            over = ": the policy has learnt to please the reward rather than to answer better" if apart else ""
            return [
                f"From step {evaluation.steps[0]} to step {evaluation.steps[1]} ({evaluation.kind}), the reward went "
                f"from {score[0]:.3f} to {score[1]:.3f}, and the monitor, which was not trained on, from "
                f"{monitor[0]:.3f} to {monitor[1]:.3f}{over}."
            ]
    if not evaluations or any("monitor" in evaluation.after for evaluation in evaluations):
        return []
    return [
        "Only the reward that it was trained on was measured, so nothing shows whether answers got better otherwise."
    ]


def _ends(settings: Mapping[str, Any]) -> list[str]:
    """What a policy has not learnt to do by itself, because it was done for it."""
    found = []
    if settings.get("stop_strings"):
        texts = " or ".join(code(repr(text)) for text in settings["stop_strings"])
        found.append(
            f"In training and evaluation, a response was cut before {texts} (stop\\_strings): have it cut there "
            "wherever the model is used, or it writes on."
        )
    if settings.get("min_new_tokens"):
        found.append(
            f"In training and evaluation, a response could not end before {settings['min_new_tokens']} tokens "
            "(min\\_new\\_tokens): without that, some are shorter."
        )
    return found


def _health(source: Source) -> list[str]:
    """What `ppo-lm doctor` finds."""
    findings = source.record["health"]
    early = "" if len(source.record["steps"]) >= WINDOW else f"; most of its checks start at step {WINDOW}"
    return [f"`ppo-lm doctor`: {plain(finding)}" for finding in findings] or [
        f"`ppo-lm doctor` finds no problem{early}."
    ]
