"""A run in TensorBoard: the same numbers as metrics.jsonl, also after an interruption."""

import json
from collections import defaultdict

import pytest

from ppo_lm.errors import ConfigError, RunPaused
from ppo_lm.tracking import RECORDERS, Recorder, find_recorders
from tests.ppo_trainer.conftest import PROMPTS, length_reward, make

pytest.importorskip("tensorboard")


def series(folder):
    """Points by curve: (step, value) in order."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    curves = {name: [(point.step, point.value) for point in events.Scalars(name)] for name in events.Tags()["scalars"]}
    texts = {
        name.removesuffix("/text_summary"): [
            (point.step, point.tensor_proto.string_val[0].decode()) for point in events.Tensors(name)
        ]
        for name in events.Tags()["tensors"]
    }
    return curves, texts


def recorded(folder):
    expected = defaultdict(list)
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        prefix = f"{row.pop('evaluation')}/" if "evaluation" in row else ""
        step = row.pop("step")
        for name, value in row.items():
            expected[prefix + name].append((step, pytest.approx(value, rel=1e-6)))
    return dict(expected)


def test_the_same_numbers_as_metrics_jsonl(folder, tmp_path):
    out = tmp_path / "run"
    make(folder, out, length_reward, recorders=["tensorboard"]).train(PROMPTS, quiet=True)
    curves, texts = series(out)
    assert curves == recorded(out)
    assert "batch_size: 4" in texts["settings"][0][1]
    assert [step for step, _ in texts["samples"]] == [1, 2, 3, 4, 5]
    assert PROMPTS[0][:9] in texts["samples"][0][1]


def test_a_resumed_run_has_each_step_once(folder, tmp_path):
    out, calls = tmp_path / "run", []

    def breaking(prompts, completions):
        calls.append(1)
        if len(calls) == 6:
            raise ValueError("no answer")
        return length_reward(prompts, completions)

    settings = dict(recorders=["tensorboard"], save_every=2, eval_prompts=0, eval_every=0, steps=7)
    with pytest.raises(RunPaused):
        make(folder, out, breaking, **settings).train(PROMPTS, quiet=True)
    make(folder, out, breaking, **settings).train(PROMPTS, resume=out, quiet=True)
    curves, _ = series(out)
    assert [step for step, _ in curves["score"]] == list(range(1, 8))
    assert curves == recorded(out)


def test_a_run_without_a_folder_writes_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = make(folder, tmp_path, length_reward, recorders=["tensorboard"], steps=1, eval_prompts=0, eval_every=0)
    trainer.config.output_dir = None
    trainer.train(PROMPTS, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_said_before_any_model_loads(monkeypatch):
    class Elsewhere(Recorder):
        needs = ("no_such_package",)

    monkeypatch.setitem(RECORDERS._parts, "elsewhere", Elsewhere)
    with pytest.raises(ConfigError, match=r"'elsewhere' needs no_such_package; install it with: pip install 'ppo-lm\["):
        find_recorders(["elsewhere"])
