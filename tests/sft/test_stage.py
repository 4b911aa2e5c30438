import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from ppo_lm.base_setup import load_base
from ppo_lm.config import RewardConfig, SFTConfig
from ppo_lm.errors import ConfigError, DataError, ModelError
from ppo_lm.reward_modeling import run_reward
from ppo_lm.run.folder import RUN_FILES
from ppo_lm.sft import run_sft
from tests.sft.conftest import DEMONSTRATIONS, write


def sft_config(folder, tmp_path, rows=DEMONSTRATIONS, **settings):
    source = write(tmp_path / "demonstrations.jsonl", rows)
    defaults = dict(
        model_name=folder,
        demonstrations=source,
        held_out=8,
        epochs=4,
        batch_size=8,
        learning_rate=1e-2,
        rouge_samples=4,
        max_new_tokens=6,
        output_dir=str(tmp_path / "sft"),
    )
    return SFTConfig(**{**defaults, **settings})


@pytest.mark.parametrize("lora_r", [8, 0])
def test_sft_learns_what_was_shown_and_ppo_can_start_from_it(folder, tmp_path, lora_r, capsys):
    results = run_sft(sft_config(folder, tmp_path, lora_r=lora_r))
    assert results["loss_after"] < 0.5 * results["loss_before"]
    assert results["rouge1_after"] > results["rouge1_before"]
    measured = {f"{name}_{when}" for name in ("loss", "rouge1", "rouge2", "rougeL") for when in ("before", "after")}
    assert set(results) == measured
    out = tmp_path / "sft"
    assert (out / "adapter").is_dir() == (lora_r > 0)
    assert {path.name for path in out.iterdir()} <= set(RUN_FILES)
    network = AutoModelForCausalLM.from_pretrained(out / "merged")
    trained = load_base(str(out / ("adapter" if lora_r else "merged")), "float32", "cpu")
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(
        network(ids).logits[0],
        trained.logits(trained.hidden_states(ids, torch.ones(1, 3, dtype=torch.bool)))[0],
        rtol=0,
        atol=1e-4,
    )
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if "evaluation" not in row] == list(range(1, 21))
    printed = capsys.readouterr().out
    assert "36 for training, 4 held out, 0 of them" in printed and "length in tokens" in printed
    assert json.loads((out / "data_report.json").read_text())[0]["held_out"] == 4


def test_examples_that_do_not_fit_are_left_out_and_counted(folder, tmp_path, capsys):
    rows = [
        *DEMONSTRATIONS,
        {"prompt": "My boss yelled. " * 30 + "TL;DR:", "completion": "Upset."},
        {"prompt": "word " * 90, "completion": "x"},
        {"prompt": 3, "completion": "x"},
    ]
    run_sft(sft_config(folder, tmp_path, rows, max_prompt_tokens=40, max_tokens=60, max_steps=1))
    printed = capsys.readouterr().out
    assert "41 of 43 rows used" in printed and "1 prompts cut at the end of a sentence" in printed
    assert "has no sentence that ends within max_prompt_tokens 40" in printed
    assert "held out instead of 8, because at most a tenth" in printed
    few = "training is only 1 optimiser update, too few to expect much; raise max_steps above 19\n"
    assert few in printed and printed.index(few) < printed.index("step 1/1")
    with pytest.raises(
        DataError,
        match="none of the 40 examples can be used: .*: line 40 has .* the model's context, 5; give others, raise ",
    ):
        run_sft(sft_config(folder, tmp_path, max_tokens=5), overwrite=True)


def test_missing_settings_are_reported_before_any_model_loads(tmp_path):
    with pytest.raises(ConfigError, match="demonstrations is not set"):
        run_sft(SFTConfig(model_name="nobody/none"))
    with pytest.raises(ConfigError, match="preferences is not set"):
        run_reward(RewardConfig(model_name="nobody/none"))
    with pytest.raises(DataError, match="there is no such file"):
        run_reward(RewardConfig(model_name="nobody/none", preferences=str(tmp_path / "none.jsonl")))
    with pytest.raises(ConfigError, match="lora_r is 0; a reward model is an adapter"):
        RewardConfig(lora_r=0)


def test_a_reward_model_from_a_file_with_its_report(folder, tmp_path):
    rows = [
        {
            "prompt": f"POST: I moved out {n} times. TL;DR:",
            "chosen": "I am upset." + " Hm" * (n % 3),
            "rejected": "My boss." + " Hm" * (n % 2),
            "who": "ann" if n % 2 else "bob",
        }
        for n in range(60)
    ]
    source = write(tmp_path / "preferences.jsonl", rows)
    config = RewardConfig(
        model_name=folder,
        preferences=source,
        held_out=20,
        epochs=3,
        batch_size=8,
        learning_rate=1e-2,
        source_column="who",
        lora_r=4,
        output_dir=str(tmp_path / "reward"),
    )
    results = run_reward(config, quiet=True)
    assert results["accuracy"] == 1.0 and set(results) == {"accuracy", "calibration_error", "length_correlation"}
    out = tmp_path / "reward"
    assert {path.name for path in out.iterdir()} <= set(RUN_FILES)
    report = json.loads((out / "report.json").read_text())
    assert sum(source["comparisons"] for source in report["by_source"].values()) == report["comparisons"] == 6
    assert set(report["by_source"]) == {"ann", "bob"}
    text = (out / "report.md").read_text()
    assert (
        "accuracy 1.000" in text and "| ann | " in text and (out / "reward_report.png").read_bytes()[:4] == b"\x89PNG"
    )

    from ppo_lm.base_setup import find_reward_folder
    from ppo_lm.data import load_preferences
    from ppo_lm.models import RewardModel
    from ppo_lm.reward_modeling import score_all
    from ppo_lm.reward_modeling.stage import encode_preferences

    base = load_base(folder, "float32", "cpu")
    model = RewardModel.load(base, find_reward_folder(str(out)))
    preferences, report = load_preferences(rows, source_column="who")
    train, _ = encode_preferences(base, preferences, config, report).split(config.held_out, config.seed, report)
    scores = score_all(model, [pair.chosen_ids for pair in train.tokens])  # what it is normalised on
    assert (float(scores.mean()), float(scores.std())) == (pytest.approx(0, abs=1e-4), pytest.approx(1, abs=1e-4))


def test_a_reward_model_of_cut_prompts_measures_lengths_of_completions(folder, tmp_path):
    long = "My boss yelled at me. " * 12 + "TL;DR:"
    rows = [{"prompt": f"{n} {long}", "chosen": "I am upset.", "rejected": "My boss."} for n in range(20)]
    config = RewardConfig(
        model_name=folder,
        preferences=write(tmp_path / "p.jsonl", rows),
        held_out=6,
        max_prompt_tokens=30,
        max_steps=1,
        lora_r=4,
        output_dir=str(tmp_path / "reward"),
    )
    run_reward(config, quiet=True)
    from ppo_lm.data import load_preferences
    from ppo_lm.models import RewardModel
    from ppo_lm.reward_modeling.stage import encode_preferences, measure

    base = load_base(folder, "float32", "cpu")
    preferences, report = load_preferences(rows)
    found = encode_preferences(base, preferences, config, report)
    base.load_adapter("reward", tmp_path / "reward" / "reward")
    lengths = measure(RewardModel(base), found)
    assert set(lengths.chosen_lengths) == {len(base.tokenizer(" I am upset.")["input_ids"]) + 1}
    assert report.cut == 20


@pytest.mark.parametrize(
    ("rows", "settings", "reason"),
    [
        (1, {}, "1 is left: of 1 preferences, 0 held out and 0 left out; give more, or demonstrations to normalise on"),
        (2, {}, "1 is left: of 2 preferences, 1 held out and 0 left out; give more"),
        (
            3,
            {"max_tokens": 25},
            r"1 is left: of 3 preferences, 1 held out and 1 left out \(.* more than max_tokens .*\);",
        ),
        (
            9,
            {"demonstrations": 4, "max_tokens": 18},
            "none is left: of 4 demonstrations, 4 did not fit into max_tokens",
        ),
        (9, {"demonstrations": 1}, "1 is left: of 1 demonstrations, 0 did not fit .*; give more, or shorter ones"),
    ],
)
def test_too_few_reference_completions_are_reported_with_their_cause(folder, tmp_path, rows, settings, reason):
    texts = [{"prompt": f"{n} TL;DR:", "chosen": "I am upset.", "rejected": "My boss."} for n in range(rows - 1)]
    longest = {"prompt": "My boss yelled. " * 6, "chosen": "I am upset.", "rejected": "My boss."}
    settings = dict(settings, preferences=write(tmp_path / "p.jsonl", [longest, *texts][:rows]))
    if "demonstrations" in settings:
        count = settings["demonstrations"]
        settings["demonstrations"] = write(tmp_path / "d.jsonl", DEMONSTRATIONS[:count])
    config = RewardConfig(model_name=folder, output_dir=str(tmp_path / "reward"), **settings)
    with pytest.raises(DataError, match=f"takes at least two reference completions, but {reason}"):
        run_reward(config, quiet=True)


def test_wrong_targets_are_reported_before_training(folder, tmp_path):
    with pytest.raises(ModelError, match="lora_targets .*q_prj.* cannot be used with this model"):
        run_sft(sft_config(folder, tmp_path, lora_targets="q_prj"), quiet=True)
