"""The report's file, without a browser; see test_page_in_a_browser.py."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors import safe_open

from ppo_lm.cli.main import main
from ppo_lm.config import SFTConfig
from ppo_lm.errors import UserError
from ppo_lm.report import read_run_folder, write_report
from ppo_lm.report.position import explained_by_position
from ppo_lm.report.token_files import MOST_TOKENS
from ppo_lm.sft import run_sft
from tests.report.conftest import HOSTILE, data_of, make_run

pytestmark = pytest.mark.fast


def test_every_number_of_a_token_is_the_one_that_was_kept(run_folder):
    found = read_run_folder(run_folder)["tokens"]["steps"]
    assert [step["step"] for step in found] == [10, 20, 30, 40]
    for step in found:
        with safe_open(run_folder / "tokens" / f"step-{step['step']:06d}.safetensors", framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        width = tensors["action_ids"].shape[1]
        for row, response in enumerate(step["responses"]):
            real = tensors["attention_mask"][row, -width:]
            assert response["sampled"] == tensors["action_mask"][row, real].astype(int).tolist()
            assert len(response["pieces"]) == real.sum()
            assert len(response["prompt_pieces"]) == tensors["attention_mask"][row, :-width].sum()
            assert np.float32(response["score"]) == tensors["scores"][row]
            for name, numbers in response["numbers"].items():
                assert np.array_equal(np.array(numbers, np.float32), tensors[name][row, real]), name
            for place, choices in zip(np.flatnonzero(real), response["choices"]["reference"]):
                expected = zip(
                    tensors["reference_choices"][row, place], tensors["reference_choice_logprobs"][row, place]
                )
                assert [(token, np.float32(logprob)) for token, logprob in choices] == list(expected)


def test_two_turns_are_among_the_responses(run_folder):
    responses = [response for step in read_run_folder(run_folder)["tokens"]["steps"] for response in step["responses"]]
    holes = [response for response in responses if 0 in response["sampled"]]
    assert holes
    for response in holes:
        sampled = np.array(response["sampled"], bool)
        rewards, kl = (np.array(response["numbers"][name])[sampled] for name in ("rewards", "kl"))
        assert rewards.sum() == pytest.approx(response["score"] - 0.5 * kl.sum(), abs=1e-5)


def test_series_evaluations_and_answers(run_folder):
    found = read_run_folder(run_folder)
    assert found["steps"] == list(range(1, 41))
    assert found["series"]["score"][-1] == 1
    assert found["series"]["own_metric"] == [3.0] * 40
    assert [(one["step"], one["means"]) for one in found["evaluations"]] == [(0, {"score": 0}), (40, {"score": 1})]
    answers = found["answers"][0]["answers"]
    assert [(answer["step"], answer["completion"]) for answer in answers] == [
        (0, "answer 0 word"),
        (40, "answer 40 word"),
    ]
    assert {setting["name"]: setting["default"] for setting in found["settings"]}["kl_coef"] is False
    assert found["environment"]["ppo_lm"]


def test_a_run_in_progress(run_folder):
    with (run_folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "score"')
    (run_folder / "tokens" / ".step-000050.safetensors.unfinished").write_bytes(b"half")
    assert read_run_folder(run_folder)["done"] == 40


def test_missing_numbers_are_gaps(run_folder):
    with (run_folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 41, "score": None, "kl": 1.0, "entropy": 1.0}) + "\n")
        file.write(json.dumps({"step": 42, "dropped": "the loss is NaN"}) + "\n")
    found = read_run_folder(run_folder)
    assert found["series"]["score"][-1] is None
    assert found["series"]["own_metric"][-1] is None
    assert found["dropped"] == [{"step": 42, "reason": "the loss is NaN"}]


def test_no_text_becomes_markup(tmp_path):
    write_report([make_run(tmp_path / "run", texts=HOSTILE)], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 2  # the template's own
    assert page.count("<script") == 2
    texts = data_of(page)["runs"][0]["tokens"]["steps"][0]["responses"][0]
    assert texts["columns"]["topic"] == HOSTILE
    assert re.findall(r"""(?:src|href)=["'](?!#)""", page) == []


def test_a_long_completion(tmp_path):
    make_run(tmp_path / "run", texts="x" * 100_000, steps=10)
    write_report([tmp_path / "run"], tmp_path / "report.html")
    found = data_of((tmp_path / "report.html").read_text(encoding="utf-8"))["runs"][0]
    assert len(found["tokens"]["steps"][0]["responses"][0]["completion"]) > 100_000


def test_two_runs_of_one_name_are_told_apart(tmp_path):
    folders = [make_run(tmp_path / side / "run") for side in "ab"]
    write_report(folders, tmp_path / "report.html")
    runs = data_of((tmp_path / "report.html").read_text(encoding="utf-8"))["runs"]
    assert [run["name"] for run in runs] == [str(folder) for folder in folders]


def test_what_there_is_no_room_for_is_said(tmp_path):
    folder = make_run(tmp_path / "run", steps=60, every=5, width=300, rows=8, holes=False)
    left_out = write_report([folder], tmp_path / "report.html")
    run = data_of((tmp_path / "report.html").read_text(encoding="utf-8"))["runs"][0]
    shown = run["tokens"]["steps"]
    assert shown[-1]["step"] == 60
    assert sum(sum(response["sampled"]) for step in shown for response in step["responses"]) < 1.5 * MOST_TOKENS
    assert left_out == [
        f"{folder} kept the tokens of more steps than a report has room for; {12 - len(shown)} of them are left out"
    ]
    assert (tmp_path / "report.html").stat().st_size < 5_000_000


def test_explained_by_position_by_hand():
    early, late = dict(values=[1.0, 5.0], reward_to_go=[1.0, 2.0]), dict(values=[2.0, 5.0], reward_to_go=[3.0, 8.0])
    responses = [{"numbers": numbers, "sampled": [1, 1]} for numbers in [early, late] * 4]
    found = explained_by_position({"steps": [{"responses": responses}]})
    # first tenth: G is 1 or 3 (variance 1), G − V is 0 or 1 (variance 1/4); sixth: G 2 or 8 (9), G − V −3 or 3 (9)
    assert found == [pytest.approx(0.75), *[None] * 4, pytest.approx(0.0), *[None] * 4]


def test_without_values_or_tokens():
    assert explained_by_position({"steps": []}) == []
    assert explained_by_position({"steps": [{"responses": [{"numbers": {}, "sampled": [1]}]}]}) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "config.yaml").unlink(), "there is no run in"),
        (
            lambda run: (run / "config.yaml").write_text("mode: 3\n"),
            "is not the configuration of a run of train, sft, rew",
        ),
        (lambda run: (run / "metrics.jsonl").write_text("nothing\n"), "metrics.jsonl, line 1 is damaged"),
        (
            lambda run: (run / "tokens" / "step-000010.safetensors").write_bytes(b"x" * 99),
            "step-000010.safetensors is damaged",
        ),
    ],
)
def test_damage_is_one_sentence(run_folder, spoil, message):
    spoil(run_folder)
    with pytest.raises(UserError, match=re.escape(message)):
        read_run_folder(run_folder)


def test_the_command(run_folder, tmp_path, capsys, monkeypatch):
    main(["report", str(run_folder)])
    assert (run_folder / "report.html").exists()
    assert capsys.readouterr().out == f"written to {run_folder / 'report.html'}: open it in a browser\n"
    monkeypatch.chdir(tmp_path)
    main(["report", str(run_folder), str(make_run(tmp_path / "other"))])
    assert len(data_of((tmp_path / "report.html").read_text(encoding="utf-8"))["runs"]) == 2
    main(["report", str(run_folder), "--out", "named.html"])
    assert (tmp_path / "named.html").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 1, "error: folders is not set; name the folder of a run: ppo-lm report FOLDER"),
        (["nowhere"], 1, "error: there is no run in 'nowhere'"),
    ],
)
def test_the_command_refuses(arguments, code, message, capsys):
    with pytest.raises(SystemExit) as error:
        main(["report", *arguments])
    assert error.value.code == code
    assert capsys.readouterr().err.startswith(message)


def test_the_command_needs_no_torch_and_little_time(tmp_path):
    folder = make_run(tmp_path / "run", steps=100)
    code = (
        "import sys; from ppo_lm.cli.main import main; main(['report', sys.argv[1]]); "
        "assert 'torch' not in sys.modules, 'torch is imported'"
    )
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    assert time.perf_counter() - started < 5
    assert (folder / "report.html").stat().st_size < 5_000_000


def test_a_record_that_is_written_again_is_the_same(tmp_path):
    one, other = make_run(tmp_path / "one", steps=10), make_run(tmp_path / "other", steps=10)
    name = "tokens/step-000010.safetensors"
    assert (one / name).read_bytes() == (other / name).read_bytes()


def test_the_other_stages_have_curves_too(folder, tmp_path):
    demonstrations = tmp_path / "demonstrations.jsonl"
    lines = [json.dumps({"prompt": f"POST {n} TL;DR:", "completion": f" I moved {n}"}) for n in range(20)]
    demonstrations.write_text("\n".join(lines))
    out = tmp_path / "sft"
    config = SFTConfig(
        model_name=folder, demonstrations=str(demonstrations), output_dir=str(out), max_steps=3, batch_size=4
    )
    run_sft(config, quiet=True)
    found = read_run_folder(out)
    assert (found["stage"], found["done"], found["health"], found["answers"]) == ("sft", 3, [], [])
    assert len(found["series"]["loss"]) == 3
    main(["report", str(out)])
    assert data_of((out / "report.html").read_text(encoding="utf-8"))["runs"][0]["stage"] == "sft"
    main(["report", str(out), "--terminal"])
