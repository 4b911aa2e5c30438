import json
import math

import torch
import yaml

from ppo_lm.config import PPOConfig
from ppo_lm.data import PromptSet
from ppo_lm.evaluation import Evaluation
from ppo_lm.tracking import RunLog, make_run_folder

RESULTS = {
    "generated_texts": [" good", " bad"],
    "rewards": [1.0, -1.0],
    "score": 0.0,
    "kl": 0.5,
    "length": 2.0,
    "ended": 1.0,
    "tokens_per_second": 9.0,
    "seconds": 2.0,
}


def evaluation(score):
    return Evaluation(
        score=score,
        kl=0.1,
        entropy=1.5,
        length=3.0,
        ended=1.0,
        monitor=None,
        scores=[score, score],
        monitors=None,
        lengths=[3, 3],
        texts=[f" text {score}", " [bold]x[/bold]"],
    )


COMPONENTS = {"brief": torch.tensor([2.0, -2.0]), "kind": torch.tensor([math.nan, 0.5])}


def test_a_run_leaves_its_settings_metrics_samples_and_picture(tmp_path, capsys):
    config = PPOConfig(steps=2, samples_every=2, output_dir=str(tmp_path / "run"))
    log, prompts = RunLog(config), PromptSet(["p", "q"])
    log.evaluation(0, prompts, {"sampled": evaluation(0.25)})
    log.step(1, prompts.prompts, RESULTS, COMPONENTS)
    log.step(2, prompts.prompts, RESULTS, COMPONENTS)
    log.evaluation(2, prompts, {"sampled": evaluation(0.75)})
    log.finish(prompts, {"sampled": [evaluation(0.25), evaluation(0.75)]})
    assert PPOConfig(**yaml.safe_load((log.folder / "config.yaml").read_text())) == config
    rows = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row.get("evaluation")) for row in rows] == [
        (0, "sampled"),
        (1, None),
        (2, None),
        (2, "sampled"),
    ]
    assert rows[0]["score"] == 0.25 and rows[1]["kl"] == 0.5 and "monitor" not in rows[0]
    samples = [json.loads(line) for line in (log.folder / "samples.jsonl").read_text().splitlines()]
    assert samples[1] == {
        "step": 2,
        "prompt": "q",
        "completion": " bad",
        "score": -1.0,
        "rewards": {"brief": -2.0, "kind": 0.5},
    }
    assert samples[0]["rewards"] == {"brief": 2.0, "kind": None}
    printed = capsys.readouterr().out
    assert "before (reward 0.25): text 0.25" in printed and "after (reward 0.75): text 0.75" in printed
    assert "[bold]x[/bold]" in printed  # a model's text is never read as markup


def test_quiet_prints_nothing_and_no_folder_writes_nothing(tmp_path, capsys):
    log = RunLog(PPOConfig(steps=1), quiet=True)
    log.step(1, ["p", "q"], RESULTS, COMPONENTS)
    log.finish(PromptSet([]), {})
    assert capsys.readouterr().out == ""
    assert log.folder is None and list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_not_used_again(tmp_path):
    first, lock = make_run_folder(tmp_path / "run")
    assert first == tmp_path / "run"
    assert make_run_folder(tmp_path / "run")[0] == tmp_path / "run-2"  # the first is empty, but held
    lock.release()
    assert make_run_folder(tmp_path / "run")[0] == first  # still empty
    (first / "config.yaml").write_text("")
    assert make_run_folder(tmp_path / "run")[0] == tmp_path / "run-2"


def test_the_monitor_is_shown_by_its_name(capsys):
    RunLog(PPOConfig(steps=1), monitor_name="gold").step(1, ["p", "q"], {**RESULTS, "monitor": 0.5}, COMPONENTS)
    assert "gold  0.500" in capsys.readouterr().out


def test_a_resumed_run_drops_what_was_recorded_after_its_checkpoint(tmp_path):
    config = PPOConfig(steps=3, samples_every=1, output_dir=str(tmp_path / "run"))
    log = RunLog(config, quiet=True)
    for step in (1, 2, 3):
        log.step(step, ["p", "q"], RESULTS, COMPONENTS)
    log.close()
    resumed = RunLog(config, quiet=True, resume=(log.folder, 2))
    assert resumed.folder == log.folder and [row["step"] for row in resumed.steps] == [1, 2]
    resumed.step(3, ["p\u2028\u0085", "q"], RESULTS, COMPONENTS)
    with (log.folder / "samples.jsonl").open("a") as file:
        file.write('{"step": 3, "pro')  # torn by a kill
    resumed.close()
    RunLog(config, quiet=True, resume=(log.folder, 3)).close()
    for name, steps in (("metrics.jsonl", [1, 2, 3]), ("samples.jsonl", [1, 1, 2, 2, 3, 3])):
        assert [
            json.loads(line)["step"] for line in (log.folder / name).read_text(encoding="utf-8").split("\n")[:-1]
        ] == steps


def test_a_monitor_that_says_nothing_of_a_batch_leaves_a_gap_in_the_picture(tmp_path):
    log = RunLog(PPOConfig(steps=2, output_dir=str(tmp_path / "run")), quiet=True)
    log.step(1, ["p", "q"], {**RESULTS, "monitor": 0.5}, COMPONENTS)
    log.step(2, ["p", "q"], RESULTS, COMPONENTS)
    log.finish(PromptSet([]), {})
    assert (log.folder / "learning_curve.png").is_file()
