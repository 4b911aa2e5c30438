"""What shows a run to whoever started it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ppo_lm.live.notebook import Notebook, in_notebook
from ppo_lm.live.panel import Live
from ppo_lm.terminal.pinned import is_interactive
from ppo_lm.tracking import Recorder, Screen


def screens(quiet: bool = False) -> Sequence[Recorder]:
    """Nothing if `quiet`; otherwise plain lines, with a display above them in a notebook, and a panel below them on a
    terminal where lines may move (`is_interactive`)."""
    if quiet:
        return ()
    if in_notebook():
        return (Notebook(), Screen())
    return (Screen(), Live()) if is_interactive(sys.stdout) else (Screen(),)
