"""Programs that answer over HTTP: a loop to await them in, and one exchange with one of them."""

from ppo_lm.services.exchange import BadAnswer, Refused, exchange, open_session, parse, printable
from ppo_lm.services.loop import contained, run

__all__ = ["BadAnswer", "Refused", "contained", "exchange", "open_session", "parse", "printable", "run"]
