"""The boundary to files, messages and paths that users and networks give: everything is bounded, and what cannot be
read is refused in one sentence."""

from ppo_lm.reading.files import Missing, Unreadable, read_lines, read_text
from ppo_lm.reading.json_reader import TOO_DEEP, is_too_deep, parse_json, read_json
from ppo_lm.reading.paths import as_path, user_path
from ppo_lm.reading.yaml_reader import Loader, parse_yaml, read_yaml

__all__ = [
    "TOO_DEEP",
    "Loader",
    "Missing",
    "Unreadable",
    "as_path",
    "is_too_deep",
    "parse_json",
    "parse_yaml",
    "read_json",
    "read_lines",
    "read_text",
    "read_yaml",
    "user_path",
]
