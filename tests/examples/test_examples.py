import importlib.util
import sys


def load_example(checkout):
    spec = importlib.util.spec_from_file_location("smollm2_sentiment", checkout / "examples" / "smollm2_sentiment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sentiment_reward_and_the_interval(checkout):
    example = load_example(checkout)
    good, bad = example.sentiment(["", ""], [" a wonderful, happy surprise!", " a terrible, sad disaster."])
    assert good > 0.5 > -0.5 > bad
    # the sum of ten draws from five ones and five zeros is at most 1 in 1.1% of cases, and at most 2 in 5.5%
    assert example.paired_bootstrap([1.0, 0.0] * 5) == (0.2, 0.8)


def test_the_example_runs(checkout, folder, tmp_path, monkeypatch):
    example, report = load_example(checkout), tmp_path / "report.md"
    options = dict(steps=1, held_out=2, batch_size=2, output_dir=tmp_path / "run", report=report)
    monkeypatch.setattr(example, "MODEL", folder)  # for SmolLM2, which takes long
    monkeypatch.setattr(
        sys, "argv", ["smollm2_sentiment.py", *(f"--{name}={value}" for name, value in options.items())]
    )
    example.main()
    assert "Mean VADER score on 2 held-out prompts" in report.read_text()
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()
