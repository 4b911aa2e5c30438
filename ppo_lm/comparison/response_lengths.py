"""Whether policies are evaluated on responses of the length that they were trained to write."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ppo_lm.comparison.contestants import Contestant
from ppo_lm.config.files import is_ppo_run, read_settings
from ppo_lm.errors import ConfigError
from ppo_lm.reading import user_path
from ppo_lm.run import run_of
from ppo_lm.run.folder import CONFIG


def notes_on_lengths(contestants: Sequence[Contestant], max_new_tokens: int) -> list[str]:
    """A sentence for every policy of a PPO run that had another `max_new_tokens`."""
    notes = []
    for contestant in contestants:
        trained = None if contestant.column is not None else _trained_with(user_path(contestant.source, "models"))
        if trained not in (None, max_new_tokens):
            notes.append(
                f"{contestant.name}: trained with max_new_tokens {trained}, but evaluated with {max_new_tokens}; "
                f"--max_new_tokens {trained} evaluates what it was trained to write"
            )
    return notes


def _trained_with(model: Path) -> object:
    """`max_new_tokens` of the PPO run that wrote the model; None if there is none, or it is not known."""
    run_folder = run_of(model)
    if run_folder is not None:
        with suppress(ConfigError):  # a run of whose settings nothing can be read
            settings = read_settings(run_folder / CONFIG, "models")
            return settings.get("max_new_tokens") if is_ppo_run(settings) else None
    return None
