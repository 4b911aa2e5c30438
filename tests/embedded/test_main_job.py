"""What the main job promises, measured. Slow: `uv run pytest -m slow tests/embedded`."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ppo_lifts_the_gold_score_it_never_sees_on_every_seed(checkout, tmp_path, seed):
    out = tmp_path / "run"
    arguments = ["--seed", str(seed), "--output_dir", str(out)]
    subprocess.run([sys.executable, "main.py", *arguments], cwd=checkout, check=True, timeout=600)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    sampled = [row for row in rows if row.get("evaluation") == "sampled"]
    print(f"seed {seed}: gold {sampled[0]['monitor']:.3f} -> {sampled[-1]['monitor']:.3f}, KL {sampled[-1]['kl']:.2f}")
    assert sampled[0]["monitor"] <= 0.65
    assert sampled[-1]["monitor"] >= 0.90
    assert sampled[-1]["kl"] < 15
