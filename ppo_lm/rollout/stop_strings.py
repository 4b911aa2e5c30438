"""Texts that end a response."""

from __future__ import annotations

from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from ppo_lm.data.encoding import decode
from ppo_lm.data.pieces import INCOMPLETE
from ppo_lm.errors import ConfigError
from ppo_lm.rollout.engine import SamplingSettings

EVERY = 8  # tokens between two looks at whether a response has stopped
CONTEXT = 8  # tokens before a look that are decoded with it, or more


class Stop(NamedTuple):
    """Where a response ended."""

    tokens: int  # up to and including the one that completes a stop string
    text: str  # before the stop string


class StopStrings:
    """Finds the first token that completes a stop string in the decoded text of a response, wherever in a token the
    string begins or ends. Before `min_new_tokens` tokens no response ends: what is complete by then does not count."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: SamplingSettings):
        """Raises `ConfigError` for the name of a special token, which has no text in a response."""
        for string in settings.stop_strings:
            if string in tokenizer.all_special_tokens:
                raise ConfigError.of(
                    f"stop_strings has {string!r}, a special token, which is not part of a response's text; remove it: "
                    "the end tokens that the model's generation_config.json names end a response anyway"
                )
        self._tokenizer, self._strings = tokenizer, settings.stop_strings
        self._fewest = settings.min_new_tokens
        self._longest = max(map(len, self._strings), default=0)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._strings)

    def find(self, ids: list[int], looked_at: int = 0) -> Stop | None:
        """Where the response with the tokens `ids` ended, if it has; `looked_at`: the number of tokens by which it is
        known not to have ended."""
        start = max(looked_at, self._fewest - 1, 0)
        for first in range(start, len(ids) if self else 0, EVERY):
            last = min(first + EVERY, len(ids))
            if self._may_stop(ids[:last], first):
                for end in range(first, last):
                    if found := self._stop_at(ids[: end + 1]):
                        return found
        return None

    def held_back(self, text: str) -> int:
        """The number of characters at the end of a text with which a stop string may begin."""
        return max(
            (n for string in self._strings for n in range(1, len(string)) if text.endswith(string[:n])), default=0
        )

    def _may_stop(self, ids: list[int], first: int) -> bool:
        """Whether a token from `first` on may complete a string; False is certain."""
        width = CONTEXT
        while True:
            start = max(first - width, 0)
            before = self._decode(ids[start:first])
            # the context has to be long enough, and to begin with a whole character
            if start == 0 or (len(before) >= self._longest and not before.startswith(INCOMPLETE)):
                break
            width *= 2
        text = self._decode(ids[start:])
        return self._first(text, len(before.rstrip(INCOMPLETE))) is not None or INCOMPLETE in text

    def _stop_at(self, ids: list[int]) -> Stop | None:
        """The end of the response if its last token completes a string."""
        text, before = self._decode(ids), self._decode(ids[:-1]).rstrip(INCOMPLETE)
        begin = self._first(text, len(before))
        return None if begin is None else Stop(len(ids), text[:begin])

    def _first(self, text: str, known: int) -> int | None:
        """Where the first of the strings begins that end after the `known` characters."""
        found = [text.find(string, max(known - len(string) + 1, 0)) for string in self._strings]
        return min((place for place in found if place >= 0), default=None)

    def _decode(self, ids: list[int]) -> str:
        return decode(self._tokenizer, ids)
