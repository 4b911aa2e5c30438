"""The five commands of docs/walkthrough.md, from random weights to a comparison. Slow: `uv run pytest -m slow -s
tests/embedded/test_walkthrough.py`."""

import json

import pytest

from ppo_lm.cli.main import main


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_five_commands_rebuild_what_is_shipped(tmp_path):
    sft, reward, value, ppo, evaluation = (
        str(tmp_path / name) for name in ("sft", "reward", "value", "ppo", "evaluation")
    )
    main(["sft", "--output_dir", sft])
    main(["reward", "--config", "embedded", "--model_name", f"{sft}/merged", "--output_dir", reward])
    main(["value", "--config", "embedded", "--model_name", f"{sft}/merged", "--reward", reward, "--output_dir", value])
    main(
        [
            "train",
            "--config",
            "embedded",
            "--model_name",
            f"{sft}/merged",
            "--reward",
            reward,
            "--value_model",
            value,
            "--output_dir",
            ppo,
        ]
    )
    main(
        [
            "evaluate",
            "--config",
            "embedded",
            "--models",
            f"sft={sft}/merged",
            "--models",
            f"ppo={ppo}/adapter",
            "--output_dir",
            evaluation,
        ]
    )
    report = json.loads((tmp_path / "reward" / "report.json").read_text())
    before, after = json.loads((tmp_path / "evaluation" / "results.json").read_text())["sampled"]
    print(
        f"reward model {report['accuracy']:.3f}, calibration error {report['calibration_error']:.3f}; gold "
        f"{before['score']} -> {after['score']}; win rate {after['win_rate']}"
    )
    assert report["accuracy"] >= 0.85 and report["calibration_error"] <= 0.08
    assert before["score"]["estimate"] <= 0.65 and after["score"]["estimate"] >= 0.90
    assert after["win_rate"]["estimate"] >= 0.85
