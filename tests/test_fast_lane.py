"""The fast lane, `pytest -m fast`, covers every room."""

import re
import subprocess
import sys


def test_every_room_has_a_fast_test(checkout):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "fast", "-p", "no:cacheprovider", "tests"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    )
    tried = set(re.findall(r"^tests/(\w+)/", done.stdout, re.MULTILINE))
    rooms = {path.parent.name for path in (checkout / "ppo_lm").glob("*/__init__.py")}
    assert rooms <= tried, rooms - tried
