"""A program that a run can be exported to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ppo_lm.exporting.elsewhere.mapping import Exporting, Mapped
from ppo_lm.exporting.elsewhere.prompts import Row


@dataclass(frozen=True)
class Program:
    """`version`: the one whose sources its file was written from. `module`: what starts its training.

    estimators: its names of advantage estimators, by ours.
    files: of the prompts to train on and of those held out, in the exported folder.
    critic: what a value model is in transformers, a classifier of each "token" or of each "sequence".
    map_settings: our settings, and its names and values for them.
    write_prompts: writes rows to a file; the last argument is "train" or "held_out".
    write_option: the words of an option on its command line.
    reward_ending: Python that makes a function it can call of `score` (see `scoring`), given the texts that end a
        response.
    tells: what `score` gets to know of a response besides its text.
    reward_template: the chat template of a reward model, given that of its base, or None for texts; None if it is given
        tokens.
    quoting: a line of shell that makes the path $HERE fit into quotes of its command line; may be empty.
    gpus: the options that take the number of GPUs, with `{gpus}` in its place.
    counts_prompts: its mini-batches are numbers of prompts, not of responses.
    """

    name: str
    version: str
    module: str
    address: str
    estimators: Mapping[str, str]
    files: tuple[str, str]
    critic: str
    map_settings: Callable[[Exporting], list[Mapped]]
    write_prompts: Callable[[list[Row], Path, str], None]
    write_option: Callable[[str, object], list[str]]
    reward_ending: Callable[[list[str]], str]
    tells: Sequence[str]
    reward_template: Callable[[str | None], str] | None
    quoting: str
    gpus: Sequence[str]
    counts_prompts: bool
