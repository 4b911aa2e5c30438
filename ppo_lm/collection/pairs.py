"""Where the two completions come from: a file, or a model that writes them as they are needed."""

from __future__ import annotations

import threading
from typing import Protocol

from ppo_lm.config import CollectConfig
from ppo_lm.data import DataReport, Preference, Prompt, fingerprint, load_preferences, load_prompts
from ppo_lm.errors import DataError


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
    """Two samples of a policy for each prompt, drawn when they are asked for."""

    TRIES = 8  # to get two that differ

    def __init__(self, prompts: list[Prompt], config: CollectConfig, report: DataReport):
        from ppo_lm.base_setup import load_base
        from ppo_lm.models import PolicyModel

        self._prompts, self._config, self._lock = prompts, config, threading.Lock()
        self._written: dict[int, tuple[Prompt, str, str]] = {}
        self._policy = PolicyModel(load_base(config.model_name, config.dtype, config.device), None)
        self._fit_prompts(report)

    def __len__(self) -> int:
        return len(self._prompts)

    def pair(self, number: int) -> tuple[Prompt, str, str]:
        from ppo_lm.rollout import SamplingSettings, write_completions

        prompt, sampling = (
            self._prompts[number],
            SamplingSettings(self._config.max_new_tokens, self._config.temperature),
        )
        with self._lock:
            if number in self._written:
                return self._written[number]
            for attempt in range(self.TRIES):
                seed = (self._config.seed * 1_000_003 + number) * self.TRIES + attempt
                first, second = write_completions(self._policy, [prompt, prompt], sampling, seed=seed)
                if first != second:
                    break
            self._written[number] = prompt, first, second
        return self._written[number]

    def fingerprint(self) -> str:
        return fingerprint(self._prompts)

    def _fit_prompts(self, report: DataReport) -> None:
        from ppo_lm.data.encoding import encode_prompt, fit_prompt

        base, config = self._policy.base, self._config
        fitted = [fit_prompt(base.tokenizer, prompt, config.max_prompt_tokens) for prompt in self._prompts]
        for number, prompt in enumerate(fitted, start=1):
            if prompt is None:
                report.drop(
                    f"prompt {number}", f"has no sentence that ends within max_prompt_tokens {config.max_prompt_tokens}"
                )
        report.cut = sum(prompt is not None and prompt != whole for prompt, whole in zip(fitted, self._prompts))
        self._prompts = [prompt for prompt in fitted if prompt is not None]
        if not self._prompts:
            raise DataError(
                f"prompts: none has a sentence that ends within max_prompt_tokens {config.max_prompt_tokens}; raise it"
            )
        room = base.context_length - config.max_new_tokens
        lengths = [len(encode_prompt(base.tokenizer, prompt)) for prompt in self._prompts]
        if max(lengths) > room:
            raise DataError(
                f"prompt {lengths.index(max(lengths))} has {max(lengths)} tokens (counted from 0), but only {room} "
                "leave room for a completion; shorten it"
            )


def load_pairs(config: CollectConfig) -> tuple[Pairs, DataReport]:
    """What the configuration names. Raises `DataError` or `ModelError`."""
    if config.pairs is not None:
        found, report = load_preferences(config.pairs, config, config.first_column, config.second_column)
        return FilePairs(found), report
    prompts, report = load_prompts(config.prompts, config)
    return LivePairs(prompts.prompts, config, report), report
