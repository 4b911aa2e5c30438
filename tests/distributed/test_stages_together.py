"""The supervised stages in two processes against one, and how they go on after a signal."""

import json
import signal

import pytest
from safetensors.torch import load_file

from ppo_lm.distributed import processes
from ppo_lm.errors import RunPaused
from tests.distributed.conftest import in_processes
from tests.sft.conftest import signalling
from tests.sft.test_stage_resume import RUN, make_config, weights

STAGES = [
    ("sft", {"lora_r": 4, "rouge": 3}),
    ("sft", {"lora_r": 0}),
    ("reward", {"lora_r": 4}),
    ("value", {"lora_r": 4}),
]


def run(kind, config, resume=None, at=None):
    if at is not None and processes().place.rank == at[0]:
        with signalling(signal.SIGTERM, at[1]):
            return RUN[kind](config, quiet=True, resume=resume)
    return RUN[kind](config, quiet=True, resume=resume)


def configure(kind, settings, folder, tmp_path, out):
    settings = dict(settings)
    samples = settings.pop("rouge", 0)
    config = make_config(kind, folder, tmp_path, out, **settings)
    config.batch_size, config.micro_batch_size = 7, 3  # 32 examples: the last batch has 4, of two processes
    if samples:
        config.rouge_samples, config.max_new_tokens = samples, 8
    return config


@pytest.mark.parametrize(("kind", "settings"), STAGES, ids=str)
def test_a_stage_is_that_of_one_process(folder, tmp_path, kind, settings):
    found = {}
    for size in (1, 2):
        (tmp_path / str(size)).mkdir()
        config = configure(kind, {**settings, "lora_dropout": 0.0}, folder, tmp_path, tmp_path / str(size) / "run")
        first, *others = in_processes(size, run, kind, config)
        assert isinstance(first, dict), first
        assert all(other == first for other in others)
        found[size] = first
    assert found[2] == pytest.approx(found[1], rel=1e-4, abs=1e-4)
    rows = [[json.loads(line) for line in (tmp_path / size / "run" / "metrics.jsonl").open()] for size in "12"]
    assert [row["loss"] for row in rows[0] if "loss" in row] == pytest.approx(
        [row["loss"] for row in rows[1] if "loss" in row], rel=1e-4, abs=1e-5
    )
    one, two = (weights(tmp_path / size / "run").keys() for size in "12")
    assert one == two


@pytest.mark.parametrize(("kind", "settings"), [("sft", {"lora_r": 4}), ("reward", {"lora_r": 4})], ids=str)
def test_with_dropout_a_paused_stage_goes_on_bit_for_bit(folder, tmp_path, kind, settings):
    settings = {**settings, "lora_dropout": 0.3}
    whole = configure(kind, settings, folder, tmp_path, tmp_path / "whole")
    parts = configure(kind, settings, folder, tmp_path, tmp_path / "parts")
    in_processes(2, run, kind, whole)
    paused = in_processes(2, run, kind, parts, at=(1, 4))
    assert [type(one) for one in paused] == [RunPaused, RunPaused], paused
    in_processes(2, run, kind, parts, resume=tmp_path / "parts")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    file = next(iter(weights(tmp_path / "whole")))
    assert load_file(tmp_path / "whole" / file)
