"""Generated settings, data and checkpoints: each is accepted, or refused with a sentence and a documented exit code; no
traceback, and nothing over 10 seconds."""

import dataclasses
import json
import string

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ppo_lm.config
from ppo_lm.cli.main import main
from ppo_lm.config import PPOConfig, RewardConfig, SFTConfig, ValueConfig
from ppo_lm.data import load_demonstrations, load_preferences, load_prompts
from ppo_lm.errors import CheckpointError, ConfigError, DataError, UserError
from ppo_lm.run import Checkpoint, load_checkpoint, save_checkpoint
from ppo_lm.run.checkpoint import MANIFEST, STATE
from ppo_lm.tracking.files import drop_later_steps

CONFIGS = [getattr(ppo_lm.config, name) for name in ppo_lm.config.__all__]
COMMANDS = {"train": PPOConfig, "sft": SFTConfig, "reward": RewardConfig, "value": ValueConfig}
fuzz = lambda count: settings(  # noqa: E731
    max_examples=count,
    deadline=10_000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["auto", "cpu", "none", "1", "-1", "1e400", "nan"]),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)


def fields_of(config):
    names = st.sampled_from([field.name for field in dataclasses.fields(config)])
    return st.dictionaries(
        st.one_of(names, names, names, st.text(string.ascii_lowercase + "_", max_size=12)), values, max_size=6
    )


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_settings(config):
    @fuzz(300)
    @given(fields_of(config))
    def check(fields):
        try:
            made = config(**fields)
        except ConfigError as error:
            assert error.problems and all(error.problems) and str(error).startswith(f"{config.__name__}: ")
        else:
            assert {name: getattr(made, name) for name in fields} == fields

    check()


@pytest.mark.parametrize("command", COMMANDS)
def test_files_of_settings(command, tmp_path, capfd):
    """All the way through the command line; what is accepted stops at a model that does not exist."""
    file = tmp_path / "config.yaml"
    texts = st.one_of(
        fields_of(COMMANDS[command]).map(lambda fields: yaml.safe_dump(fields)),
        st.text(max_size=60),
        st.binary(max_size=60),
    )

    @fuzz(60)
    @given(texts)
    def check(content):
        file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        with pytest.raises(SystemExit) as ended:
            main([command, f"--config={file}", "--model_name=/nowhere/none", f"--output_dir={tmp_path / 'run'}"])
        written = capfd.readouterr()
        assert ended.value.code in (1, 2), written
        assert "Traceback" not in written.err and "rror" in written.err

    check()


rows = st.one_of(
    values,
    st.dictionaries(
        st.sampled_from(["prompt", "completion", "chosen", "rejected", "messages", "id", "text"]), values, max_size=4
    ),
)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", 3]), "content": leaves}), max_size=3
)
rows = st.one_of(
    rows,
    st.fixed_dictionaries(
        {
            "prompt": st.one_of(messages, st.text()),
            "completion": st.one_of(messages, st.text()),
            "chosen": messages,
            "rejected": messages,
        }
    ),
)
LOADERS = {"prompts": load_prompts, "demonstrations": load_demonstrations, "preferences": load_preferences}


@pytest.mark.parametrize("role", LOADERS)
def test_rows_of_data(role):
    @fuzz(200)
    @given(st.lists(rows, max_size=6))
    def check(data):
        try:
            found, report = LOADERS[role](data)
        except DataError as error:
            assert str(error)
        else:
            assert report.used == len(found) > 0

    check()


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".txt", ".parquet"])
def test_files_of_data(suffix, tmp_path):
    file = tmp_path / f"data{suffix}"
    lines = st.lists(
        st.one_of(
            rows.map(lambda row: json.dumps(row).encode()), st.binary(max_size=30), st.just(b'"prompt","completion"')
        ),
        max_size=5,
    )

    @fuzz(60)
    @given(st.one_of(lines.map(b"\n".join), rows.map(lambda row: json.dumps([row]).encode()), st.binary(max_size=200)))
    def check(content):
        file.write_bytes(content)
        for load in LOADERS.values():
            try:
                load(str(file))
            except DataError as error:
                assert str(file) in str(error)

    check()


def test_manifests_and_states(tmp_path):
    whole = save_checkpoint(tmp_path, 1, Checkpoint({"w": torch.ones(3)}, {"step": 1}))
    saved = {name: (whole / name).read_bytes() for name in (MANIFEST, STATE)}
    sums = json.loads(saved[MANIFEST])
    changed = st.one_of(
        values.map(lambda value: json.dumps(value).encode()),
        st.dictionaries(
            st.sampled_from(["sha256", "other"]),
            st.one_of(values, st.dictionaries(st.sampled_from(list(sums["sha256"])), values)),
            max_size=2,
        ).map(lambda value: json.dumps(value).encode()),
        st.tuples(st.integers(0, len(saved[MANIFEST])), st.binary(max_size=4)).map(
            lambda cut: saved[MANIFEST][: cut[0]] + cut[1]
        ),
        st.binary(max_size=100),
    )

    @fuzz(300)
    @given(st.sampled_from([MANIFEST, STATE]), changed)
    def check(name, content):
        (whole / name).write_bytes(content)
        try:
            checkpoint, damage = load_checkpoint(tmp_path)
            assert checkpoint.state == {"step": 1} and damage == []
        except CheckpointError as error:
            assert "is damaged" in str(error)
        finally:
            (whole / name).write_bytes(saved[name])

    check()


def test_metrics_of_a_resumed_run(tmp_path):
    lines = st.lists(
        st.one_of(
            st.integers(0, 5).map(lambda n: json.dumps({"step": n}).encode()),
            rows.map(lambda row: json.dumps(row).encode()),
            st.binary(max_size=20),
        ),
        max_size=5,
    )

    @fuzz(200)
    @given(lines.map(b"\n".join))
    def check(content):
        (tmp_path / "metrics.jsonl").write_bytes(content)
        try:
            kept = drop_later_steps(tmp_path, 3)
            assert all(row["step"] <= 3 for row in kept)
        except UserError as error:
            assert "metrics.jsonl" in str(error) and (tmp_path / "metrics.jsonl").read_bytes() == content

    check()
