"""A run that was written when fields had their former names."""

import pytest
import yaml

from ppo_lm.cli.main import main
from ppo_lm.config import PPOConfig
from ppo_lm.config.fields import fields_of
from ppo_lm.run import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.fast

FORMER = {name: field.former_name for name, field in fields_of(PPOConfig).items() if field.former_name}


def with_former_names(settings: dict) -> dict:
    return {FORMER.get(name, name): value for name, value in settings.items()}


def test_it_is_resumed_and_examined(folder, tmp_path, capsys):
    prompts, judge, out = tmp_path / "prompts.txt", tmp_path / "judge.py", tmp_path / "run"
    prompts.write_text("\n".join(f"SUBREDDIT: r/advice TITLE: My boss number {n} TL;DR:" for n in range(8)))
    judge.write_text("def judge(completions):\n    raise ConnectionError('out')\n")
    options = dict(model_name=folder, prompts=prompts, reward=f"{judge}:judge", output_dir=out, save_merged="false")
    options |= dict(batch_size=4, steps=2, eval_prompts=0, lora_r=4, adaptive_kl_target=6.0, adaptive_kl_horizon=500)
    with pytest.raises(SystemExit) as ended:
        main(["train", *(f"--{name}={value}" for name, value in options.items())])
    assert ended.value.code == 75

    config = out / "config.yaml"
    config.write_text(yaml.safe_dump(with_former_names(yaml.safe_load(config.read_text()))))
    assert "kl_target: 6.0" in config.read_text().splitlines()
    checkpoint, _ = load_checkpoint(out)
    checkpoint.state["config"] = with_former_names(checkpoint.state["config"])
    save_checkpoint(out, 0, checkpoint)

    judge.write_text("def judge(completions):\n    return [float(len(text)) for text in completions]\n")
    main(["train", "--resume", str(out), "--allow_changes"])  # the code of the reward was fixed
    assert "step 2/2" in capsys.readouterr().out
    assert (out / "adapter" / "adapter_config.json").is_file()
    main(["doctor", str(out)])
    assert "2 of 2 steps" in capsys.readouterr().out
