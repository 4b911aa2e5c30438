"""What `import ppo_lm` gives."""

import subprocess
import sys

import pytest

import ppo_lm

pytestmark = pytest.mark.fast


def test_every_public_name_can_be_imported_and_is_listed():
    for name in ppo_lm.__all__:
        assert getattr(ppo_lm, name).__name__ == name
        assert name in dir(ppo_lm)
    assert callable(ppo_lm.run_sft)
    assert ppo_lm.rewards.FunctionReward.__name__ == "FunctionReward"  # a room
    with pytest.raises(AttributeError, match="has no attribute 'run_sfd'"):
        ppo_lm.run_sfd  # noqa: B018


def test_listing_and_configs_import_no_torch():
    code = "import sys, ppo_lm; dir(ppo_lm); ppo_lm.SFTConfig(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
