"""Load prompts, demonstrations and preferences, each with a report of what was found."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

from ppo_lm.config.data_settings import SourceSettings
from ppo_lm.data.examples import Demonstration, Preference, read_demonstration, read_preference, read_prompt_or_ids
from ppo_lm.data.prompts import PromptSet
from ppo_lm.data.report import DataReport, count_duplicates
from ppo_lm.data.sources import Dropped, Records, RowProblem, Source, read_records
from ppo_lm.errors import DataError

RESERVED = ("prompts", "completions", "terminated", "completion_ids")  # given to rewards in addition to the columns
EMBEDDED_PROMPTS, SEED_PROMPTS = 4096, 1
EMBEDDED_DEMONSTRATIONS, SEED_DEMONSTRATIONS = 24_000, 101
EMBEDDED_PREFERENCES, SEED_PREFERENCES = 20_000, 102

Example = TypeVar("Example")

COLUMNS = {  # the settings that name what a row has, by role
    "prompts": "prompt_column",
    "demonstrations": "prompt_column and completion_column",
    "preferences": "prompt_column, chosen_column and rejected_column",
    "pairs": "prompt_column, first_column and second_column",
}


def load_prompts(source: Source, settings: SourceSettings | None = None) -> tuple[PromptSet, DataReport]:
    """Load prompts; a column missing from a row is None there. Unusable rows are left out and listed in the report.
    Raises `DataError` if none is left."""
    if source == "embedded":
        return _embedded_prompts()
    settings = settings or SourceSettings()
    records = _read(source, "prompts", settings.prompt_column, settings)
    prompts, report, kept = _interpret(
        records, "prompts", lambda record: read_prompt_or_ids(record, settings.prompt_column)
    )
    taken = (settings.prompt_column, "messages")
    names = [name for name in dict.fromkeys(name for record in kept for name in record) if name not in taken]
    reserved = [name for name in names if name in RESERVED]
    if reserved:
        raise DataError(
            f"prompts {records.source!r}: column {reserved[0]!r} clashes with an argument that ppo_lm passes to reward "
            "functions; rename it"
        )
    return PromptSet(prompts, {name: [record.get(name) for record in kept] for name in names}), report


def load_demonstrations(
    source: Source, settings: SourceSettings | None = None, completion_column: str = "completion"
) -> tuple[list[Demonstration], DataReport]:
    """Load prompts with completions. Unusable rows are left out and listed in the report. Raises `DataError` if none is
    left."""
    if source == "embedded":
        return _embedded_demonstrations()
    settings = settings or SourceSettings()
    records = _read(source, "demonstrations", settings.prompt_column, settings)
    found, report, _ = _interpret(
        records, "demonstrations", lambda record: read_demonstration(record, settings.prompt_column, completion_column)
    )
    return found, report


def load_preferences(
    source: Source,
    settings: SourceSettings | None = None,
    chosen_column: str = "chosen",
    rejected_column: str = "rejected",
    source_column: str | None = None,
    role: str = "preferences",
) -> tuple[list[Preference], DataReport]:
    """Load comparisons. Unusable rows are left out and listed in the report. `role`: the setting that names the source.
    Raises `DataError` if none is left."""
    if source == "embedded":
        return _embedded_preferences()
    settings = settings or SourceSettings()
    records = _read(source, role, settings.prompt_column, settings)

    def read(record: dict) -> Preference:
        return read_preference(record, settings.prompt_column, chosen_column, rejected_column, source_column)

    found, report, _ = _interpret(records, role, read)
    return found, report


def _read(source: Source, role: str, text_column: str, settings: SourceSettings) -> Records:
    return read_records(source, role, text_column, settings.data_split, settings.data_subset)


def _interpret(
    records: Records, role: str, read: Callable[[dict], Example]
) -> tuple[list[Example], DataReport, list[dict]]:
    """Read each record, leaving out those that have a problem or repeat an `id`."""
    found, kept, places, dropped, places_by_id = [], [], [], list(records.dropped), {}
    for place, record in records.rows:
        try:
            example = read(record)
            _check_id(record, place, places_by_id)
        except RowProblem as problem:
            dropped.append(Dropped(place, str(problem)))
        else:
            found.append(example)
            kept.append(record)
            places.append(place)
    if not found:
        shown = "; ".join(map(str, dropped[:3])) + (f"; and {len(dropped) - 3} more" if len(dropped) > 3 else "")
        raise DataError(
            f"{role} {records.source!r}: no row can be used: {shown}. Set {COLUMNS[role]} to the columns that the data "
            "has, or fix the rows; docs/data.md describes the formats"
        )
    keys = (json.dumps(vars(e) if hasattr(e, "__dict__") else e, default=str) for e in found)
    rows, duplicates = len(records.rows) + len(records.dropped), count_duplicates(keys)
    return found, DataReport(records.source, rows, len(found), duplicates, dropped, places=places), kept


def _check_id(record: dict, place: str, places_by_id: dict) -> None:
    if record.get("id") is None:
        return
    key = place.rpartition(":")[0] + json.dumps(record["id"], default=str)  # ids may repeat across files
    if key in places_by_id:
        raise RowProblem(f"repeats the id {record['id']!r} (first at {places_by_id[key]})")
    places_by_id[key] = place


def _embedded_prompts() -> tuple[PromptSet, DataReport]:
    from ppo_lm.embedded.posts import generate_posts
    from ppo_lm.embedded.summaries import write_demonstrations

    posts = generate_posts(EMBEDDED_PROMPTS, SEED_PROMPTS)
    references = [summary.text for summary in write_demonstrations(posts, SEED_PROMPTS)]
    prompts = PromptSet(
        [post.prompt for post in posts], {"facts": [post.facts for post in posts], "reference": references}
    )
    return prompts, DataReport("the embedded posts", len(posts), len(posts), 0)


def _embedded_demonstrations() -> tuple[list[Demonstration], DataReport]:
    from ppo_lm.embedded.posts import generate_posts
    from ppo_lm.embedded.summaries import write_demonstrations

    posts = generate_posts(EMBEDDED_DEMONSTRATIONS, SEED_DEMONSTRATIONS)
    found = [
        Demonstration(post.prompt, summary.text)
        for post, summary in zip(posts, write_demonstrations(posts, SEED_DEMONSTRATIONS))
    ]
    return found, DataReport("the embedded demonstrations", len(found), len(found), 0)


def _embedded_preferences() -> tuple[list[Preference], DataReport]:
    from ppo_lm.embedded.posts import generate_posts
    from ppo_lm.embedded.summaries import write_preferences

    posts = generate_posts(EMBEDDED_PREFERENCES, SEED_PREFERENCES)
    found = [
        Preference(pair.prompt, pair.chosen.text, pair.rejected.text)
        for pair in write_preferences(posts, SEED_PREFERENCES)
    ]
    return found, DataReport("the embedded preferences", len(found), len(found), 0)
