"""What the commands that can be resumed share."""

import pytest

from ppo_lm.cli.main import main
from ppo_lm.config import PPOConfig, SFTConfig
from ppo_lm.config.files import dump_settings

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("command", "config"),
    [("train", SFTConfig(model_name="x")), ("sft", PPOConfig(model_name="x"))],
    ids=["sft", "train"],
)
def test_resuming_the_run_of_another_command_names_that_command(command, config, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(dump_settings(config))
    with pytest.raises(SystemExit):
        main([command, "--resume", str(tmp_path)])
    other = {"train": "sft", "sft": "train"}[command]
    assert f"holds a run of ppo-lm {other}; continue it with: ppo-lm {other} --resume" in capsys.readouterr().err
