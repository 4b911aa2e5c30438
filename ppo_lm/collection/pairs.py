"""Where the two completions come from: a file, or a model that writes them as they are needed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from ppo_lm.config import CollectConfig
from ppo_lm.data import DataReport, Preference, Prompt, PromptSet, fingerprint, load_preferences, load_prompts

if TYPE_CHECKING:
    from ppo_lm.models import PolicyModel


class Pairs(Protocol):
    """Numbered pairs; `pair` may take as long as two completions take to write, and gives the same pair for the same
    number."""

    def __len__(self) -> int: ...

    def pair(self, number: int) -> tuple[Prompt, str, str]: ...

    def fingerprint(self) -> str:
        """The same for the same pairs in the same order."""
        ...


class FilePairs:
    """Pairs that are there."""

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
    """Two samples of a policy for each prompt, drawn when they are asked for. The prompts have their `ids`."""

    TRIES = 8  # to get two that differ

    def __init__(self, policy: PolicyModel, prompts: PromptSet, config: CollectConfig):
        self._policy, self._prompts, self._config = policy, prompts, config
        self._lock = threading.Lock()
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
        """Two completions, different ones unless the policy writes the same in each of `TRIES` tries."""
        from ppo_lm.rollout import SamplingSettings, write_completions

        config, prompt = self._config, self._prompts.require_ids()[number]
        sampling = SamplingSettings(config.max_new_tokens, config.temperature)
        tried = 0
        while True:
            seed = (config.seed * 1_000_003 + number) * self.TRIES + tried
            first, second = write_completions(self._policy, [prompt, prompt], sampling, seed=seed)
            tried += 1
            if first != second or tried == self.TRIES:
                return first, second


def load_pairs(config: CollectConfig) -> tuple[Pairs, DataReport]:
    """What the configuration names. Raises `DataError` or `ModelError`."""
    if config.pairs is not None:
        found, report = load_preferences(config.pairs, config, config.first_column, config.second_column)
        return FilePairs(found), report
    from ppo_lm.base_setup import load_base
    from ppo_lm.data.fitting import fit_prompts
    from ppo_lm.models import PolicyModel

    assert config.prompts is not None  # `CollectConfig` has seen to it
    prompts, report = load_prompts(config.prompts, config)
    base = load_base(config.model_name, config.dtype, config.device)
    prompts, report = fit_prompts(
        prompts,
        report,
        base,
        max_prompt_tokens=config.max_prompt_tokens,
        max_new_tokens=config.max_new_tokens,
    )
    return LivePairs(PolicyModel(base, None), prompts, config), report
