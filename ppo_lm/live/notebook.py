"""A run in a notebook: one display that is updated."""

from __future__ import annotations

import sys
from typing import Any

from ppo_lm.live.state import RunState


def in_notebook() -> bool:
    """Whether this is a notebook's kernel, which shows HTML."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and getattr(shell, "kernel", None) is not None


class Notebook(RunState):
    """Not yet."""
