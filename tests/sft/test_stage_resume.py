"""Supervised stages that are killed or asked to stop continue bit for bit, including dropout and data order."""

import json
import math
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ppo_lm.base_setup import load_base, load_reward_model
from ppo_lm.cli.main import main
from ppo_lm.config import RewardConfig, SFTConfig, ValueConfig
from ppo_lm.errors import CheckpointError, ModelError, RunPaused, StorageError
from ppo_lm.optimisation import Optimiser
from ppo_lm.reward_modeling import run_reward
from ppo_lm.sft import run_sft
from ppo_lm.value_modeling import run_value
from tests.conftest import in_a_process
from tests.sft.conftest import DEMONSTRATIONS, signalling, write

RUN = {"sft": run_sft, "reward": run_reward, "value": run_value}
KINDS = [
    ("sft", {"lora_r": 4, "lora_dropout": 0.2}),
    ("sft", {"lora_r": 0}),
    ("reward", {"lora_r": 4, "lora_dropout": 0.2}),
    ("value", {"lora_r": 4}),
]


def make_config(kind, folder, tmp_path, out, **settings):
    both = dict(
        model_name=folder,
        held_out=8,
        epochs=3,
        batch_size=8,
        micro_batch_size=4,
        save_every=5,
        output_dir=str(out),
        **{"learning_rate": 1e-2, **settings},
    )
    if kind == "sft":
        return SFTConfig(demonstrations=write(tmp_path / "d.jsonl", DEMONSTRATIONS), rouge_samples=0, **both)
    if kind == "value":
        return ValueConfig(
            demonstrations=write(tmp_path / "d.jsonl", DEMONSTRATIONS), reward="length_target(words=4)", **both
        )
    rows = [
        {"prompt": d["prompt"], "chosen": d["completion"] + " Yes." * (n % 3), "rejected": "My boss." + " No" * (n % 4)}
        for n, d in enumerate(DEMONSTRATIONS)
    ]
    return RewardConfig(preferences=write(tmp_path / "p.jsonl", rows), **both)


def weights(out):
    return {file.relative_to(out): file.read_bytes() for file in sorted(out.rglob("*.safetensors"))}


@pytest.fixture(scope="module", params=KINDS, ids=str)
def undisturbed(request, folder, tmp_path_factory):
    """A kind of run and its settings, what it returns where nothing disturbs it, and its folder."""
    kind, settings = request.param
    out = tmp_path_factory.mktemp("undisturbed")
    results = RUN[kind](make_config(kind, folder, out, out / "run", **settings), quiet=True)
    return kind, settings, results, out / "run"


def killed_in_step(at, kind, config):
    with signalling(signal.SIGKILL, at):
        RUN[kind](config, quiet=True)


@pytest.mark.parametrize(("at", "step"), [(2, "step-000000"), (8, "step-000005")])
def test_a_stage_killed_inside_a_step_continues_bit_for_bit(folder, undisturbed, tmp_path, at, step):
    (kind, settings, expected, whole), parts = undisturbed, tmp_path / "parts"
    config = make_config(kind, folder, tmp_path, parts, **settings)
    assert in_a_process(killed_in_step, at, kind, config) == -signal.SIGKILL
    assert sorted(path.name for path in (parts / "checkpoints").iterdir())[-1] == step
    assert RUN[kind](config, quiet=True, resume=parts) == expected
    assert weights(parts) == weights(whole) and len(weights(whole)) > 0
    assert (parts / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    kept, expected = ([path.name for path in (run / "checkpoints").iterdir()] for run in (parts, whole))
    assert kept == expected and len(kept) == 1  # to extend it


@pytest.mark.parametrize("at", [7, 11])
def test_a_stage_that_is_asked_to_stop_is_saved_and_resumed_by_command(folder, undisturbed, tmp_path, at):
    (kind, settings, _, whole), parts = undisturbed, tmp_path / "parts"
    said = (
        rf"SIGTERM was received\nThe run was saved as it was after step {at}; "
        rf"continue with:\n    ppo-lm {kind} --resume {parts}"
    )
    with signalling(signal.SIGTERM, at), pytest.raises(RunPaused, match=said):
        RUN[kind](make_config(kind, folder, tmp_path, parts, **settings), quiet=True)
    main([kind, "--resume", str(parts)])
    assert weights(parts) == weights(whole)
    assert (parts / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


@contextmanager
def each_step(act):
    step = Optimiser.step

    def acting(self):
        act()
        return step(self)

    Optimiser.step = acting
    try:
        yield
    finally:
        Optimiser.step = step


def test_a_model_that_cannot_be_saved_is_saved_by_the_resumed_stage_which_repeats_no_step(
    folder, undisturbed, tmp_path
):
    (kind, settings, expected, whole), parts = undisturbed, tmp_path / "parts"
    config = make_config(kind, folder, tmp_path, parts, **settings)
    in_the_way = parts / {"sft": "merged"}.get(kind, kind)
    with (
        each_step(lambda: in_the_way.write_text("")),
        pytest.raises(StorageError, match="cannot be written: Not a dir"),
    ):
        RUN[kind](config, quiet=True)
    in_the_way.unlink()
    with each_step(lambda: pytest.fail("a step was repeated")):
        assert RUN[kind](config, quiet=True, resume=parts) == expected
    assert weights(parts) == weights(whole)
    assert (parts / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_other_settings_or_data_are_refused(folder, tmp_path):
    parts = tmp_path / "parts"
    config = make_config("sft", folder, tmp_path, parts, lora_r=4)
    with signalling(signal.SIGINT, 3), pytest.raises(RunPaused):
        run_sft(config, quiet=True)
    with pytest.raises(CheckpointError, match="the run to resume has changed: batch_size was 8 and is 4"):
        run_sft(replace(config, batch_size=4), resume=parts)
    Path(config.demonstrations).write_text(
        "\n".join(json.dumps({**row, "completion": "I am glad."}) for row in DEMONSTRATIONS)
    )
    with pytest.raises(CheckpointError, match="the training data changed"):
        run_sft(config, resume=parts)


def change_the_model(tmp_path):
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] += 0.01
    save_file(tensors, file, metadata={"format": "pt"})


def change_rows(name, **columns):
    """Give the rows of the file `name` other values."""

    def change(tmp_path):
        rows = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        write(tmp_path / name, [{**row, **columns} for row in rows])

    return change


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("sft", change_the_model, "the weights of the base model changed"),
        ("reward", change_the_model, "the weights of the base model changed"),
        ("value", change_the_model, "the weights of the base model changed"),
        ("reward", change_rows("n.jsonl", completion="I am glad."), "the completions to normalise on changed"),
        ("reward", change_rows("p.jsonl", source="web"), "the sources of the held-out data changed"),
    ],
)
def test_what_a_stage_depends_on_is_compared(folder, tmp_path, kind, change, message):
    shutil.copytree(folder, tmp_path / "model")
    config = make_config(kind, str(tmp_path / "model"), tmp_path, tmp_path / "run", lora_r=2)
    if kind == "reward":
        config = replace(config, demonstrations=write(tmp_path / "n.jsonl", DEMONSTRATIONS), source_column="source")
    with signalling(signal.SIGTERM, 1), pytest.raises(RunPaused):
        RUN[kind](config, quiet=True)
    change(tmp_path)
    with pytest.raises(CheckpointError, match=f"the run to resume has changed: {message}; undo this"):
        RUN[kind](config, quiet=True, resume=tmp_path / "run")


@pytest.mark.parametrize(("kind", "settings"), KINDS[::2], ids=str)
def test_a_finished_stage_is_extended_by_epochs(folder, tmp_path, capsys, kind, settings):
    out = tmp_path / "run"
    RUN[kind](replace(make_config(kind, folder, tmp_path, out, **settings), epochs=1), quiet=True)
    first = weights(out)
    main([kind, "--resume", str(out), "--epochs", "2"])
    assert "epochs was 1 and is 2: from step 6 on, the learning rate is that of a run of 10" in capsys.readouterr().out
    recorded = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rates = [row["learning_rate"] for row in recorded if "learning_rate" in row]
    assert [row["step"] for row in recorded if "loss" in row and "evaluation" not in row] == list(range(1, 11))
    assert rates[:5] == pytest.approx([0.01 * (1 + math.cos(math.pi * step / 5)) / 2 for step in range(5)])
    assert rates[5:] == pytest.approx([0.01 * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(5, 10)])
    assert [row["step"] for row in recorded if row.get("evaluation") == "after"] == [5, 10]
    assert weights(out) != first


EPOCHS = "epochs above 1 (an epoch is 5 steps)"


@pytest.mark.parametrize(
    ("length", "few", "further", "in_vain"),
    [
        (
            {"epochs": 1},
            "epochs above 3 (an epoch is 5 steps), lower batch_size, or give more data\n",
            EPOCHS,
            {"max_steps": 10},
        ),
        ({"epochs": 4, "max_steps": 5}, "max_steps above 19\n", "max_steps above 5", {"epochs": 5}),
        (
            {"epochs": 1, "max_steps": 5},
            "epochs above 3 (an epoch is 5 steps) and max_steps above 19\n",
            f"{EPOCHS} and max_steps above 5",
            {"max_steps": 6},
        ),
    ],
)
def test_what_is_to_be_raised_for_a_longer_run_is_what_limits_it(
    folder, tmp_path, capsys, length, few, further, in_vain
):
    config = replace(make_config("sft", folder, tmp_path, tmp_path / "run", lora_r=2), **length)
    run_sft(config)
    said = capsys.readouterr().out
    assert f"training is only 5 optimiser updates, too few to expect much; raise {few}" in said
    assert f"to extend the run, raise {further} and resume it" in said
    with pytest.raises(CheckpointError) as refused:
        run_sft(config, resume=tmp_path / "run")
    assert f"it ended after step 5; to extend it, raise {further} and resume it" in str(refused.value)
    with pytest.raises(CheckpointError, match="makes 5 steps, but the run is already at step 5") as refused:
        run_sft(replace(config, **in_vain), resume=tmp_path / "run")
    other = "max_steps above 5" if "epochs" in in_vain else EPOCHS
    assert str(refused.value).endswith(f"; raise {other}")


def test_extending_a_model_that_others_were_trained_on_says_so_and_they_are_refused_with_advice(
    folder, tmp_path, capsys
):
    sft, reward = tmp_path / "sft", tmp_path / "reward"
    run_sft(replace(make_config("sft", folder, tmp_path, sft, lora_r=4), max_steps=1), quiet=True)
    run_reward(replace(make_config("reward", str(sft / "merged"), tmp_path, reward, lora_r=2), max_steps=1), quiet=True)
    load_reward_model(load_base(str(sft / "merged"), "float32", "cpu"), reward / "reward")
    main(["sft", "--resume", str(sft), "--max_steps", "3"])
    said = capsys.readouterr().out
    note = (
        f"\nadapter/ and merged/ in {sft} will be replaced when the run ends; reward models, value models, adapters "
        "and PPO runs that were trained on the present ones will then be refused;"
    )
    assert note in said and said.index(note) < said.index("step 2/3")
    with pytest.raises(ModelError) as refused:
        load_reward_model(load_base(str(sft / "merged"), "float32", "cpu"), reward / "reward")
    assert str(refused.value).count(str(sft / "merged")) == 1  # "use that one" would be no advice
    assert str(refused.value).endswith("; that model has changed since: train it again, or restore the model as it was")
    assert "will be replaced" not in extended_before_its_end(folder, tmp_path, capsys)


def extended_before_its_end(folder, tmp_path, capsys):
    """What a run says that is extended before it has written a model."""
    config = make_config("sft", folder, tmp_path, tmp_path / "paused", lora_r=4)
    with signalling(signal.SIGTERM, 1), pytest.raises(RunPaused):
        run_sft(config, quiet=True)
    main(["sft", "--resume", str(tmp_path / "paused"), "--max_steps", "2"])
    return capsys.readouterr().out
