"""Find the other processes of the launcher."""

from __future__ import annotations

import atexit
import os
import signal
from datetime import timedelta

from ppo_lm.distributed.current import processes, work_with
from ppo_lm.distributed.place import find_place
from ppo_lm.distributed.processes import Processes
from ppo_lm.errors import UserError, first_line
from ppo_lm.signals import handle_signals
from ppo_lm.terminal.pinned import be_silent

TO_MEET = timedelta(minutes=5)
TO_WAIT = timedelta(days=7)  # for each other, as a reward may take long; that all are alive is the watch's business


def join() -> Processes:
    """Work with the other processes of torchrun, or of a launcher that sets the same variables, from now on. Returns
    `processes()`; alone if there are none, and then torch.distributed is not touched.

    One OpenMP thread a process, unless OMP_NUM_THREADS says otherwise. Raises `UserError` if the others cannot be
    found.
    """
    place = find_place()
    if place.size == 1 or processes().size > 1:
        return processes()
    import torch

    from ppo_lm.distributed.meeting import meet
    from ppo_lm.distributed.team import Team

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.cuda.set_device(place.local_rank)
    restore = handle_signals(signal.SIG_DFL)  # no handler of Python's runs while a library waits
    try:
        meet(place, TO_MEET, TO_WAIT)
    except RuntimeError as error:
        raise UserError(
            f"process {place.rank} of {place.size} could not meet the others at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} ({first_line(error)}); check that all hosts can reach this address, and that "
            "GLOO_SOCKET_IFNAME names the network between them"
        ) from error
    finally:
        restore()
    team = Team(place)
    work_with(team)
    team.start_watch(os.environ["MASTER_ADDR"])
    atexit.register(leave)
    if not place.is_first:
        be_silent()
    return processes()


def leave() -> None:
    """Work alone again."""
    team = processes()
    if team.size == 1:
        return
    import torch.distributed as dist

    team.end_watch()
    work_with(Processes())
    dist.destroy_process_group()
