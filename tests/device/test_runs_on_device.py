"""A whole run on the device."""

import pytest

from tests.ppo_trainer.conftest import PROMPTS, WEIGHTS, Signals, make, metrics

KINDS = [{}, {"lora_r": 0}, {"dtype": "float32"}, {"top_k": 0, "top_p": 1.0}]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_resumed_run_ends_bit_for_bit_like_one_that_was_not(device, folder, tmp_path, kind):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = dict(device=str(device), lr_schedule="constant", max_new_tokens=12, **kind)
    make(folder, whole, Signals(), steps=4, **settings).train(PROMPTS)
    make(folder, parts, Signals(), steps=2, **settings).train(PROMPTS)
    make(folder, parts, Signals(), steps=4, **settings).train(PROMPTS, resume=parts)
    assert metrics(parts) == metrics(whole)
    for name in ("samples.jsonl", WEIGHTS):
        assert not (whole / name).exists() or (parts / name).read_bytes() == (whole / name).read_bytes()
