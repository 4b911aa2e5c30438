"""What a part of the user's own does: a hash of its code."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import textwrap
from pathlib import Path
from types import CodeType
from typing import Any

OURS = Path(__file__).parents[1]


def source_of(part: Any) -> str | None:
    """A hash of the code of a function, a class, or an object: of the whole file that defines it, so that helpers
    count, or, in a script or a notebook, of its own lines. Comments and layout do not count. None for parts of ppo_lm,
    which have its version, and for those without code in Python."""
    definition = _definition(part)
    try:
        file = _file_of(definition)
        if file.is_relative_to(OURS):
            return None
        own_lines = definition.__module__ == "__main__" or not file.is_file()
        text = textwrap.dedent(inspect.getsource(definition)) if own_lines else file.read_text(encoding="utf-8")
        return _hash(ast.dump(ast.parse(text)))
    except (OSError, TypeError, ValueError, SyntaxError):  # no source, or only a part of a statement
        code = getattr(definition, "__code__", None)
        return None if code is None else _hash(_describe(code))


def _definition(part: Any) -> Any:
    """The function or class behind it."""
    while isinstance(part, functools.partial):
        part = part.func
    part = inspect.unwrap(getattr(part, "__func__", part)) if callable(part) else part
    return part if inspect.isfunction(part) or inspect.isclass(part) else type(part)


def _file_of(definition: Any) -> Path:
    """Where it is defined. Raises TypeError if that is not in Python."""
    methods = (member for member in vars(definition).values() if inspect.isfunction(member))
    own = (method for method in methods if method.__module__ == definition.__module__)  # a NamedTuple also has Python's
    found = next(own, definition) if inspect.isclass(definition) else definition
    return Path(inspect.getsourcefile(found) or "")


def _describe(code: CodeType) -> str:
    constants = [_describe(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return repr((code.co_code, code.co_names, code.co_varnames, constants))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
