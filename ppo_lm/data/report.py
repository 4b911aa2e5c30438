"""What a data source contained: counts, lengths, dropped rows and why, duplicates, and leaks into the held-out part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from ppo_lm.data.examples import Prompt
from ppo_lm.data.prompts import most_held_out
from ppo_lm.data.sources import Dropped
from ppo_lm.data.special_tokens import find_special_tokens

if TYPE_CHECKING:
    from ppo_lm.models import BaseModel

SHOWN_PROBLEMS = 5
SMALLEST_TO_SHARE = 10  # examples, from which on a tenth of them is one or more
FEW = 30  # held-out examples whose mean is only rough
BINS = 8


@dataclass
class DataReport:
    """Created when a source is loaded; `lengths` (tokens), `cut`, `train`, `held_out`, `asked` (how many the
    settings ask to hold out) and `leaked` are filled in later."""

    source: str
    rows: int
    used: int
    duplicates: int
    dropped: list[Dropped] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    cut: int = 0
    train: int = 0
    held_out: int = 0
    asked: int = 0
    leaked: int = 0
    special_tokens: dict[str, int] = field(default_factory=dict)
    """The texts of control tokens that are encoded as ordinary text, each with the number of rows it is in."""
    plain: int = 0
    """How many prompts are plain texts although the model has a chat template."""
    places: Sequence[str] = ()
    """Where each row that was loaded is in the source."""

    def drop(self, row: int, reason: str) -> None:
        """Drop the row of this index among those that were loaded."""
        place = self.places[row] if self.places else f"row {row + 1}"
        self.dropped.append(Dropped(place, reason))
        self.used -= 1

    def look_at(self, base: BaseModel, prompt: Prompt, row: object) -> None:
        """Count a prompt that the chat template of `base` does not apply to, and note the texts of control tokens in
        its row, unless `base` encodes them as these tokens."""
        self.plain += isinstance(prompt, str) and prompt != "" and bool(base.tokenizer.chat_template)
        if not base.allow_special_tokens:
            for text in find_special_tokens(base.tokenizer, row):
                self.special_tokens[text] = self.special_tokens.get(text, 0) + 1

    def describe_split(self, train: Sequence[Hashable], held_out: Sequence[Hashable], asked: int = 0) -> None:
        """Count both parts, and the held-out prompts that are also trained on. `asked`: how many were to be held
        out."""
        self.train, self.held_out, self.asked = len(train), len(held_out), asked
        seen = set(train)
        self.leaked = sum(prompt in seen for prompt in held_out)

    def as_dict(self) -> dict:
        """The report as plain values, with the lengths as a histogram, and without the places."""
        plain = asdict(self)
        del plain["places"]
        return {**plain, "lengths": histogram(self.lengths)}

    def lines(self) -> list[str]:
        """The report as lines of text."""
        out = [f"{self.source}: {self.used:,} of {self.rows:,} rows used, {self.duplicates:,} duplicates"]
        if self.held_out and not self.train:
            out.append(f"  {self.held_out:,} for evaluation")
        elif self.train:
            out.append(
                f"  {self.train:,} for training, {self.held_out:,} held out, {self.leaked:,} of them with a prompt "
                "that is also trained on"
            )
        if self.asked and self.held_out != self.asked:
            out.append(f"  {self.held_out:,} held out instead of {self.asked:,}, because {self._why_not_as_asked()}")
        if self.train and 0 < self.held_out < FEW:
            out.append(
                f"  evaluations are means over {self.held_out} held-out example{'s' * (self.held_out > 1)} only: read "
                "nothing into small differences"
            )
        if self.cut:
            out.append(f"  {self.cut:,} prompts cut at the end of a sentence")
        if self.plain:
            out.append(
                f"  {self.plain:,} prompts are plain texts, so the model's chat template is not used for them; give "
                "conversations to use it"
            )
        if self.special_tokens:
            rows = ", ".join(f"{text} in {count:,} rows" for text, count in sorted(self.special_tokens.items()))
            out.append(f"  control tokens read as ordinary text: {rows}; allow_special_tokens keeps them as tokens")
        out += [f"  left out: {problem}" for problem in self.dropped[:SHOWN_PROBLEMS]]
        if len(self.dropped) > SHOWN_PROBLEMS:
            out.append(f"  left out: {len(self.dropped) - SHOWN_PROBLEMS:,} more")
        if self.lengths:
            bins = histogram(self.lengths)
            most = max(count for _, _, count in bins)
            out.append("  length in tokens:")
            out += [f"  {low:>6}–{high:<6} {'█' * round(30 * count / most):<30} {count:,}" for low, high, count in bins]
        return out

    def _why_not_as_asked(self) -> str:
        examples = self.train + self.held_out
        if examples == 1:
            return "there is only one example"
        if self.held_out != min(self.asked, most_held_out(examples)):
            return "examples with the same prompt stay together"
        if examples < SMALLEST_TO_SHARE:
            return f"there are only {examples} examples"
        return "at most a tenth of the examples is"


def histogram(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """(shortest, longest, count) of up to `BINS` bins of equal width."""
    if not lengths:
        return []
    low, width = min(lengths), (max(lengths) - min(lengths)) // BINS + 1
    counts = Counter((length - low) // width for length in lengths)
    return [(low + i * width, low + (i + 1) * width - 1, counts[i]) for i in range(max(counts) + 1)]


def count_duplicates(keys: Iterable[Hashable]) -> int:
    """How many keys repeat an earlier one."""
    keys = list(keys)
    return len(keys) - len(set(keys))
