"""`--json`: one JSON object on stdout, and nothing else."""

import json

import pytest

from ppo_lm.cli.main import main
from ppo_lm.config import PPOConfig
from ppo_lm.config.files import dump_settings


@pytest.mark.fast
def test_the_doctor(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(dump_settings(PPOConfig(steps=100, max_new_tokens=8)))
    rows = [
        {"step": 1, "ended": 0.0, "empty": 0.0},
        {"step": 2, "dropped": "the loss is \x1b[31mNaN"},
        {"step": 3, "ended": 0.25, "empty": 0.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["doctor", str(tmp_path), "--json"])
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == "" and "\x1b" not in out
    assert (found["folder"], found["done"], found["steps"]) == (str(tmp_path), 3, 100)
    assert found["skipped"] == [{"step": 2, "reason": "the loss is \x1b[31mNaN"}]
    (finding,) = found["findings"]
    assert finding["name"] == "cut off" and finding["text"].startswith("88% of the responses were cut off")
    main(["doctor", str(tmp_path)])
    assert finding["text"] in capsys.readouterr().out


@pytest.mark.fast
def test_an_error_leaves_stdout_empty(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(tmp_path), "--json"])
    out, err = capsys.readouterr()
    assert ended.value.code == 1 and out == "" and err.startswith("error: there is no run in")


def test_an_evaluation_whose_judge_prints(folder, tmp_path, capsys):
    (tmp_path / "judge.py").write_text(
        "def score(completions):\n    print('judging')\n    return [1.0] * len(completions)\n"
    )
    (tmp_path / "posts.jsonl").write_text("".join(f'{{"prompt": "My boss {n} TL;DR:"}}\n' for n in range(8)))
    run = tmp_path / "run"
    main(
        [
            *("evaluate", f"a={folder}", f"b={folder}", f"--prompts={tmp_path / 'posts.jsonl'}"),
            *(f"--judge={tmp_path / 'judge.py'}:score", "--eval_prompts=4", "--max_new_tokens=4"),
            *("--json", f"--output_dir={run}"),
        ]
    )
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found == {"output_dir": str(run)} | json.loads((run / "results.json").read_text())
    assert [model["name"] for model in found["sampled"]] == ["a", "b"]
    assert found["sampled"][1]["win_rate"]["estimate"] == 0.5  # ties count half
    assert "judging" in err and "win rate" in err
