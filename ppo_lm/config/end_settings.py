"""When a response ends; shared by all commands that sample."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ppo_lm.config.field_types import NonNegativeInt, Rule, Topic
from ppo_lm.config.settings import Settings


@dataclasses.dataclass(kw_only=True)
class EndSettings(Settings):
    """The shortest response, and what ends one besides the model's end tokens and `max_new_tokens`."""

    SAMPLING = Topic("Sampling")

    max_new_tokens: int
    min_new_tokens: NonNegativeInt = 0
    """A response cannot end before this many tokens, with an end token or a stop string."""
    stop_strings: Annotated[list[str] | None, Rule("have no empty text", all)] = None
    """Texts that end a response; its text is cut before them. Repeat the option for several."""

    def clashes(self) -> list[str]:
        clashes = super().clashes()
        if self.min_new_tokens > self.max_new_tokens:
            clashes.append(
                f"min_new_tokens is {self.min_new_tokens} but max_new_tokens is {self.max_new_tokens}; make "
                "min_new_tokens at most max_new_tokens"
            )
        return clashes
