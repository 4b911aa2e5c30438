"""How the process was started."""

import pytest

from ppo_lm.run.launch import program

pytestmark = pytest.mark.fast


def test_commands_to_copy_start_as_the_users_did(monkeypatch):
    assert program() == "ppo-lm"
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")  # as `uv run` sets it
    assert program() == "uv run ppo-lm"
