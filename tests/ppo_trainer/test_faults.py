"""Numbers that are NaN or infinite: the step is skipped, nothing else is lost."""

import copy
import json
import math

import pytest
import torch
from safetensors.torch import load_file

from ppo_lm.cli.main import main
from ppo_lm.errors import NumericalFault, RunStopped
from ppo_lm.optimisation import Optimiser
from tests.ppo_trainer.conftest import PROMPTS, make

KINDS = [{"lora_r": 4}, {"lora_r": 0}, {"lora_r": 4, "value_backbone": "shared"}]


class Lengths:
    """A reward by length that is `value` for one completion in the calls `at`."""

    def __init__(self, at=(), value=math.nan):
        self.calls, self.at, self.value = 0, at, value

    def __call__(self, prompts, completions):
        self.calls += 1
        scores = [len(c) / 10 for c in completions]
        return scores if self.calls not in self.at else [self.value, *scores[1:]]


def everything(trainer):
    """Copies of everything that training changes."""
    return copy.deepcopy({name: part.state_dict() for name, part in trainer.stateful_parts().items()})


def same(now, then):
    """Whether everything is equal except the random streams, which a failed step advances."""

    def equal(one, other):
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
        return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other

    streams = ("sampling", "policy_batches", "value_batches")
    return now.keys() == then.keys() and all(equal(now[name], then[name]) for name in now if name not in streams)


def break_gradient(optimiser, update, value=math.nan):
    """Put `value` into one entry of a gradient in the optimiser's `update`-th update from now."""
    clip, count = Optimiser.clip, [0]

    def broken(clipped):
        if clipped is optimiser:
            count[0] += 1
            if count[0] == update:
                clipped.parameters[0].grad.view(-1)[0] = value
        return clip(clipped)

    return broken


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("settings", KINDS, ids=str)
@pytest.mark.parametrize(("whose", "update"), [("policy", 1), ("policy", 4), ("value", 3)])
def test_a_broken_gradient_leaves_weights_and_optimisers_as_they_were(
    folder, monkeypatch, settings, whose, update, value
):
    """Even when it comes in the last of four updates: the three before it are undone."""
    trainer = make(folder, "", Lengths(), output_dir=None, **settings)
    for _ in range(2):
        trainer.ppo_step(PROMPTS[:4])
        before = everything(trainer)
        optimiser = getattr(trainer.model_trainer, f"{whose}_optimiser")
        with monkeypatch.context() as patch:
            patch.setattr(Optimiser, "clip", break_gradient(optimiser, update, value))
            with pytest.raises(NumericalFault, match="the gradient is NaN or infinite") as raised:
                trainer.ppo_step(PROMPTS[4:8])
        assert same(everything(trainer), before)
        assert raised.value.batch.sequences == 4
    trainer.ppo_step(PROMPTS[8:])
    assert not same(everything(trainer), before)


def test_the_first_step_can_be_skipped_too(folder, monkeypatch):
    trainer = make(folder, "", Lengths(), output_dir=None)
    before = everything(trainer)
    with monkeypatch.context() as patch:
        patch.setattr(Optimiser, "clip", break_gradient(trainer.model_trainer.policy_optimiser, 2))
        with pytest.raises(NumericalFault):
            trainer.ppo_step(PROMPTS[:4])
    assert same(everything(trainer), before)


# The calls of the reward are: e e 1 2 e e 3 4 e e 5 e e
def test_a_step_whose_reward_is_nan_is_skipped_and_the_run_continues(folder, tmp_path, capsys):
    out = tmp_path / "run"
    trainer, weights = make(folder, out, Lengths(at=(8,))), {}
    step = trainer.ppo_step

    def watched(prompts, columns=None):
        number = len(weights) // 2
        weights[number, "before"] = everything(trainer)
        try:
            return step(prompts, columns)
        finally:
            weights[number, "after"] = everything(trainer)

    trainer.ppo_step = watched
    trainer.train(PROMPTS)
    assert [same(weights[n, "before"], weights[n, "after"]) for n in range(5)] == [False, False, False, True, False]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "evaluation" not in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5]
    assert ["dropped" in row for row in steps] == [False, False, False, True, False]
    assert "returned nan for completion 0 of 4" in steps[3]["dropped"]
    aside = out / "dropped" / "step-000004"
    kept = json.loads((aside / "prompts.json").read_text())
    assert len(kept["prompts"]) == 4 and set(kept["prompts"]) <= set(PROMPTS)
    pairs = load_file(aside / "pairs.safetensors")
    assert pairs["action_ids"].shape[0] == 4 and pairs["old_logprobs"].isfinite().all()
    assert f"skipped, nothing was trained: {kept['fault']}; its batch is in {aside}" in capsys.readouterr().out
    assert (out / "learning_curve.png").exists()
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(out), "--nothing"])
    assert ended.value.code == 2
    main(["doctor", str(out)])
    assert "1 steps were skipped, most recently step 4: reward function Lengths returned nan" in capsys.readouterr().out


def test_after_three_skipped_steps_in_a_row_the_run_stops_and_says_where_to_resume(folder, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(RunStopped, match="step 4: 3 steps in a row were skipped, .*check the reward") as stopped:
        make(folder, out, Lengths(at=(4, 5, 6, 7), value=-math.inf), eval_every=0, save_every=2).train(PROMPTS)
    assert stopped.value.exit_code == 70
    assert (
        f"The last checkpoint is {out / 'checkpoints' / 'step-000002'}; continue from it with:\n"
        f"    trainer.train(..., resume='{out}')" in str(stopped.value)
    )
    make(folder, out, Lengths(), eval_every=0, save_every=2).train(PROMPTS, resume=out)  # the reward is fixed
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "dropped" in row] == [2]


def test_a_broken_weight_stops_the_run_at_once_and_is_never_saved(folder, tmp_path):
    out = tmp_path / "run"
    trainer = make(folder, out, Lengths(), save_every=1, steps=8)
    step, done = trainer.ppo_step, []

    def breaking(prompts, columns=None):
        results = step(prompts, columns)
        done.append(1)
        if len(done) == 3:
            with torch.no_grad():
                trainer.roles.policy.parameters()[0].view(-1)[5] = math.nan
        return results

    trainer.ppo_step = breaking
    with pytest.raises(
        RunStopped,
        match="weights of the policy model are NaN or infinite, so no further step can succeed\nThe last checkpoint is "
        ".*step-000002",
    ):
        trainer.train(PROMPTS)
    assert all(
        tensor.isfinite().all()
        for file in (out / "checkpoints").rglob("*.safetensors")
        for tensor in load_file(file).values()
    )
    make(folder, out, Lengths(), save_every=1, steps=8).train(PROMPTS, resume=out)


def test_a_run_stops_when_its_kl_is_over_the_limit(folder, tmp_path):
    with pytest.raises(
        RunStopped,
        match=r"step \d: the KL to the reference is .* nats per response, over kl_limit 0.5; start again with a "
        r"higher kl_coef \(0\)",
    ) as stopped:
        make(folder, tmp_path / "run", Lengths(), kl_limit=0.5, kl_coef=0, learning_rate=0.1, eval_every=0).train(
            PROMPTS
        )
    assert "No checkpoint" not in str(stopped.value)
    make(folder, tmp_path / "other", Lengths(), kl_limit=1e6, learning_rate=0.1, eval_every=0).train(PROMPTS)
