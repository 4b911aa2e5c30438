"""What happened in one process, told to the others: a value or an error."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ppo_lm.errors import UserError
from ppo_lm.types import SAPairs


class ElsewhereError(Exception):
    """The traceback of an error in another process, as text; the cause of that error here."""


def pack(value: object) -> bytes:
    """A value that `unpack` returns."""
    return pickle.dumps((True, value))


def pack_error(error: Exception) -> bytes:
    """An error that `unpack` raises, of the same class if that can be pickled."""
    text = "" if isinstance(error, UserError) else "".join(traceback.format_exception(error))
    state = {name: value for name, value in vars(error).items() if _can_be_pickled(value)}
    with suppress(Exception):  # a class of the user's that is not found by name
        return pickle.dumps((False, (type(error), error.args, state, text)))
    kind = UserError if isinstance(error, UserError) else RuntimeError
    return pickle.dumps((False, (kind, (f"{type(error).__name__}: {error}",), {}, text)))


def unpack(packed: bytes) -> Any:
    """The value, or raise the error."""
    is_value, content = pickle.loads(packed)
    if is_value:
        return content
    raise _error(*content)


def _error(kind: type[Exception], arguments: tuple, state: Mapping[str, object], text: str) -> Exception:
    error = kind.__new__(kind)  # an error of the user's may take other arguments than it keeps
    error.args = arguments
    error.__dict__.update(state)
    if text:
        error.__cause__ = ElsewhereError(f"\n{text}")
    return error


def _can_be_pickled(value: object) -> bool:
    if isinstance(value, SAPairs):  # a whole batch, which only the process that writes it aside needs
        return False
    with suppress(Exception):
        pickle.dumps(value)
        return True
    return False
