"""Several processes that train together, started by torchrun: who does what, and how they hear of each other."""

from ppo_lm.distributed.current import by_itself, processes
from ppo_lm.distributed.in_step import as_often
from ppo_lm.distributed.launch import join, leave
from ppo_lm.distributed.place import Place, find_place
from ppo_lm.distributed.processes import Processes
from ppo_lm.distributed.sharing import Share

__all__ = ["Place", "Processes", "Share", "as_often", "by_itself", "find_place", "join", "leave", "processes"]
