"""Updates that all happen or none do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ppo_lm.optimisation.optimiser import Optimiser


@contextmanager
def all_or_nothing(optimisers: Sequence[Optimiser], updates: int) -> Iterator[None]:
    """If the block raises, undo every update made in it. `updates`: how many each optimiser makes.

    A single update is held back until the block ends, so that nothing needs to be undone or copied. If there are
    several, weights and moments are copied first, on their own device.
    """
    held_back = updates == 1
    before = [] if held_back else [optimiser.snapshot() for optimiser in optimisers]
    for optimiser in optimisers if held_back else ():
        optimiser.hold_back()
    try:
        yield
    except BaseException:
        for optimiser, snapshot in zip(optimisers, before):
            optimiser.go_back_to(snapshot)
        raise
    else:
        for optimiser in optimisers if held_back else ():
            optimiser.catch_up()
    finally:
        for optimiser in optimisers if held_back else ():
            optimiser.let_go()
