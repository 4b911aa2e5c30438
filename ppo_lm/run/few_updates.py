"""Is there enough training to expect anything from it?"""

from __future__ import annotations

FEW_UPDATES = 20


def few_updates(updates: int, remedy: str) -> list[str]:
    """A sentence, with the `remedy`, for a training of fewer than `FEW_UPDATES` optimiser updates; else nothing."""
    if updates >= FEW_UPDATES:
        return []
    count = "1 optimiser update" if updates == 1 else f"{updates} optimiser updates"
    return [f"training is only {count}, too few to expect much; {remedy}"]
