"""Which of the processes of a launcher this is. Reads the environment only, so that it costs no import of torch."""

from __future__ import annotations

import os
from typing import NamedTuple

from ppo_lm.errors import ConfigError

ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


class Place(NamedTuple):
    """A process among those of a run: its `rank` among all `size`, and its `local_rank` among the `local_size` of its
    host."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that keeps the record: it writes files, and calls rewards and recorders."""
        return self.rank == 0


ALONE = Place()


def find_place() -> Place:
    """As torchrun, or another launcher that sets the same variables, says it; alone if none does. Raises `ConfigError`
    if they make no sense."""
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return ALONE
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        place = Place(rank, size, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
    except ValueError:
        place = Place(-1)
    missing = [name for name in ADDRESS if name not in os.environ]
    if not 0 <= place.rank < place.size or missing:
        said = ", ".join(f"{name}={os.environ.get(name, '')}" for name in (*names, *ADDRESS))
        raise ConfigError.of(
            f"this was started as one of several processes, but the variables of the launcher make no sense ({said}); "
            "start them with torchrun"
        )
    return place
