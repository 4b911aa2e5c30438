import importlib.util
import random
import sys

import pytest


def load_example(checkout):
    spec = importlib.util.spec_from_file_location("smollm2_sentiment", checkout / "examples" / "smollm2_sentiment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sentiment_reward_and_the_interval(checkout):
    example = load_example(checkout)
    good, bad = example.sentiment(["", ""], [" a wonderful, happy surprise!", " a terrible, sad disaster."])
    assert good > 0.5 > -0.5 > bad
    rng = random.Random(1)
    differences = [rng.gauss(0.3, 1.0) for _ in range(400)]
    low, high = example.paired_bootstrap(differences)
    mean = sum(differences) / 400
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 / 20, abs=0.03)  # the normal approximation: ± 1.96 · σ / √n


def test_the_example_runs(checkout, smollm2, tmp_path, monkeypatch):
    example, report = load_example(checkout), tmp_path / "report.md"
    options = dict(steps=1, held_out=2, batch_size=2, output_dir=tmp_path / "run", report=report)
    monkeypatch.setattr(example, "MODEL", smollm2.folder)
    monkeypatch.setattr(
        sys, "argv", ["smollm2_sentiment.py", *(f"--{name}={value}" for name, value in options.items())]
    )
    example.main()
    assert "Mean VADER score on 2 held-out prompts" in report.read_text()
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()
