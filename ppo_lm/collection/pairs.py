"""Where the two completions come from: a file, or a model that writes them on demand."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from ppo_lm.config import CollectConfig
from ppo_lm.data import DataReport, Preference, Prompt, PromptSet, load_preferences, load_prompts

if TYPE_CHECKING:
    from ppo_lm.models import PolicyModel
from ppo_lm.fingerprint import fingerprint


class Pairs(Protocol):
    """Numbered pairs. `pair` may take as long as sampling two completions, and always returns the same pair for a
    number."""

    def __len__(self) -> int: ...

    def pair(self, number: int) -> tuple[Prompt, str, str]: ...

    def fingerprint(self) -> str:
        """Equal for the same pairs in the same order."""
        ...


class FilePairs:
    """Pairs that already exist."""

    def __init__(self, preferences: list[Preference]):
        self._pairs = preferences

    def __len__(self) -> int:
        return len(self._pairs)

    def pair(self, number: int) -> tuple[Prompt, str, str]:
        pair = self._pairs[number]
        return pair.prompt, pair.chosen, pair.rejected

    def fingerprint(self) -> str:
        return fingerprint([(pair.prompt, pair.chosen, pair.rejected) for pair in self._pairs])


class LivePairs:
    """Two samples of a policy per prompt, drawn on request. The prompts must have their `ids`."""

    TRIES = 8  # attempts to get two that differ

    def __init__(self, policy: PolicyModel, prompts: PromptSet, config: CollectConfig):
        self._policy, self._prompts, self._config = policy, prompts, config
        from ppo_lm.base_setup import make_budget

        self._budget, self._lock = make_budget(policy.base), threading.Lock()
        self._written: dict[int, tuple[Prompt, str, str]] = {}

    def __len__(self) -> int:
        return len(self._prompts)

    def pair(self, number: int) -> tuple[Prompt, str, str]:
        with self._lock:
            if number not in self._written:
                self._written[number] = (self._prompts.prompts[number], *self._write(number))
            return self._written[number]

    def fingerprint(self) -> str:
        return fingerprint(self._prompts.prompts)

    def _write(self, number: int) -> tuple[str, str]:
        """Two completions. They differ, unless all `TRIES` attempts give two equal ones."""
        from ppo_lm.rollout import SamplingSettings, write_completions

        config, prompt = self._config, self._prompts.require_ids()[number]
        sampling = SamplingSettings(config.max_new_tokens, config.temperature).ending_as(config)
        first = second = ""
        for attempt in range(self.TRIES):
            seed = (config.seed * 1_000_003 + number) * self.TRIES + attempt
            first, second = write_completions(self._policy, [prompt, prompt], sampling, seed=seed, budget=self._budget)
            if first != second:
                break
        return first, second


def load_pairs(config: CollectConfig) -> tuple[Pairs, DataReport]:
    """Load the pairs that the configuration names. Raises `DataError` or `ModelError`."""
    if config.pairs is not None:
        columns = config.first_column, config.second_column
        found, report = load_preferences(config.pairs, config, *columns, role="pairs")
        return FilePairs(found), report
    from ppo_lm.base_setup import load_base
    from ppo_lm.data.fitting import fit_prompts
    from ppo_lm.models import PolicyModel

    assert config.prompts is not None  # the configuration names pairs or prompts
    prompts, report = load_prompts(config.prompts, config)
    base = load_base(config.model_name, config.dtype, config.device, allow_special_tokens=config.allow_special_tokens)
    prompts, report = fit_prompts(
        prompts,
        report,
        base,
        max_prompt_tokens=config.max_prompt_tokens,
        max_new_tokens=config.max_new_tokens,
    )
    return LivePairs(PolicyModel(base, None), prompts, config), report
