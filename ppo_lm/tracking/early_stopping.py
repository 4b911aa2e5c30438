"""Stops a run whose metric no longer improves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ppo_lm.config.other_names import did_you_mean
from ppo_lm.config.run_settings import StoppingSettings
from ppo_lm.errors import ConfigError
from ppo_lm.tracking.events import EvaluationDone, RunStart, StepDone
from ppo_lm.tracking.recorder import Recorder
from ppo_lm.tracking.series import series_of_evaluation, series_of_row


class EarlyStopping(Recorder):
    """Asks the run to stop after `patience` observations of `metric` in a row without an improvement of more than
    `min_delta`. The metric is one of a step, or of an evaluation, such as "sampled/score"; a step or an evaluation that
    lacks it is no observation. Saved in every checkpoint.

    Example::

        trainer.train(recorders=[EarlyStopping("sampled/score", patience=3)])
    """

    def __init__(
        self,
        metric: str,
        patience: int,
        mode: Literal["max", "min"] = "max",
        min_delta: float = 0.0,
        partial_steps: int = 0,
    ):
        """`partial_steps`: the number of steps at the start that may lack the metric."""
        self.metric, self.patience, self.mode, self.min_delta = metric, patience, mode, min_delta
        self.partial_steps = partial_steps
        self.seen: set[str] = set()  # names of metrics
        self.best: float | None = None
        self.waited = 0  # observations since the best one

    def start(self, event: RunStart) -> None:
        """Note the metrics that a resumed run recorded earlier."""
        for row in event.history:
            self.seen.update(series_of_row(row))

    def step(self, event: StepDone) -> str | None:
        """Observe a step's metric. Raises `ConfigError`, once all metrics are known, if there is none of this name."""
        self.seen.update(event.metrics)
        if self.metric not in self.seen and event.step > self.partial_steps:
            names = ", ".join(sorted(self.seen))
            raise ConfigError.of(
                f"stop_metric is {self.metric!r}, but the metrics of this run are {names}"
                f"{did_you_mean(self.metric, self.seen, otherwise='; name one of them')}"
            )
        return self._observe(event.metrics.get(self.metric), "step")

    def evaluation(self, event: EvaluationDone) -> str | None:
        """Observe an evaluation's metric."""
        found: dict[str, float] = {}
        for name, means in event.means.items():
            found |= series_of_evaluation(name, means)
        self.seen.update(found)
        return self._observe(found.get(self.metric), "evaluation")

    def _observe(self, value: float | None, observation: str) -> str | None:
        if value is None:
            return None
        if self.best is None or self._gain(value, self.best) > self.min_delta:
            self.best, self.waited = value, 0
            return None
        self.waited += 1
        if self.waited < self.patience:
            return None
        self.waited = 0  # a run that is extended gets the whole patience again
        return (
            f"{self.metric} has not {'risen' if self.mode == 'max' else 'fallen'} by more than {self.min_delta:g} from "
            f"{self.best:.4g} in {self.patience} {observation}{'s' * (self.patience > 1)} (stop_patience)"
        )

    def _gain(self, value: float, best: float) -> float:
        return value - best if self.mode == "max" else best - value

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, the observations since, and what they are of."""
        return {"metric": self.metric, "mode": self.mode, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, unless it is of another metric or mode."""
        if (state["metric"], state["mode"]) == (self.metric, self.mode):
            self.best, self.waited = state["best"], state["waited"]


def early_stopping(config: StoppingSettings, partial_steps: int = 0) -> list[EarlyStopping]:
    """The recorder that the configuration asks for, if any. `partial_steps`: see `EarlyStopping`."""
    if config.stop_metric is None:
        return []
    return [
        EarlyStopping(config.stop_metric, config.stop_patience, config.stop_mode, config.stop_min_delta, partial_steps)
    ]
