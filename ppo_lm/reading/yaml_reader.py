"""YAML of settings, up to a size, a depth, a number of values and a number of digits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ppo_lm.reading.files import Unreadable, read_text

LARGEST = 100_000  # bytes; PyYAML takes a second for these
DEEPEST = 32  # lists and mappings inside one another
MOST_VALUES = 10_000  # once every alias is written out
MOST_BITS = 1000  # of a whole number, so that a float can hold it


class Loader(yaml.SafeLoader):
    """Reads 1e-5 as a number, which YAML 1.1 takes for text, and 2024-01-31 as text, which it takes for a date.
    Refuses what is nested too deeply."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Keep count of the depth."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unreadable(f"is nested more than {DEEPEST} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+.0123456789"))


def parse_yaml(text: str) -> Any:
    """The value that YAML describes. Raises `Unreadable`, with the line, if it is invalid or names a key twice, and
    beyond the limits."""
    if len(text) > LARGEST:
        raise Unreadable(f"has {len(text):,} characters, more than the limit of {LARGEST:,}")
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        value = loader.construct_document(node)
    except Unreadable:
        raise
    except yaml.MarkedYAMLError as error:
        raise Unreadable(f"is not YAML: {_line(error.problem_mark)}{error.problem or error.context}") from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise Unreadable(f"is not YAML: {str(error).splitlines()[0]}") from None
    except ValueError:  # Python's limit on the digits of a number
        raise Unreadable("has a number with too many digits") from None
    _check_numbers(value)
    return value


def read_yaml(file: Path) -> Any:
    """The value in a YAML file. Raises `Unreadable` like `read_text` and `parse_yaml`."""
    return parse_yaml(read_text(file, LARGEST))


def _count_values(node: yaml.Node, counts: dict[int, int]) -> int:
    """How many values there are in `node` once its aliases are written out; `counts` are those of finished nodes."""
    if id(node) in counts:
        if not counts[id(node)]:
            raise Unreadable(f"is not YAML: {_line(node.start_mark)}an alias refers to what it is part of")
        return counts[id(node)]
    counts[id(node)] = 0  # until it is finished
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        inner = [each for pair in node.value for each in pair]
    else:
        inner = node.value if isinstance(node, yaml.SequenceNode) else []
    total = 1 + sum(_count_values(each, counts) for each in inner)
    if total > MOST_VALUES:
        raise Unreadable(f"has more than {MOST_VALUES:,} values once its aliases are written out")
    counts[id(node)] = total
    return total


def _check_keys(node: yaml.MappingNode) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        line, name = key.start_mark.line + 1, (key.tag, key.value)
        if name in lines:
            raise Unreadable(f"names {key.value!r:.60} twice, in lines {lines[name]} and {line}; remove one")
        lines[name] = line


def _check_numbers(value: Any) -> None:
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise Unreadable("has a number with too many digits")
    for each in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []:
        _check_numbers(each)


def _line(mark: Any) -> str:
    return f"line {mark.line + 1}: " if mark else ""
