"""What a run keeps of single tokens: it is what the step computed, and looking changes nothing."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from ppo_lm.data import PromptSet
from ppo_lm.ppo_trainer.token_observer import ALTERNATIVES, ObservedTokens, describe_tokens
from tests.conftest import make_pairs
from tests.ppo_trainer.conftest import FOUR_PROMPTS, PROMPTS, length_reward, make, trainer

SETTINGS = dict(lora_r=4, kl_coef=0.3, learning_rate=1e-2, whiten_advantages=False, max_new_tokens=6, ppo_epochs=2)


def read(file):
    with safe_open(file, framework="np") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, json.loads(opened.metadata()["texts"])  # noqa: SIM118


@pytest.fixture(scope="module")
def recorded(folder, tmp_path_factory):
    """The folder of a run that kept every step."""
    out = tmp_path_factory.mktemp("tokens") / "run"
    make(folder, out, length_reward, token_samples_every=1, kl_coef=0.3, max_new_tokens=6).train(PROMPTS, quiet=True)
    return out


@pytest.mark.parametrize("others", [{}, {"lora_r": 0}, {"value_backbone": "shared"}, {"fast": False}])
def test_looking_changes_nothing(folder, others):
    looked, blind = (trainer(folder, **{**SETTINGS, **others}) for _ in range(2))
    for _ in range(2):
        with looked.observer.looking_at(3):
            seen = looked.ppo_step(FOUR_PROMPTS)
        unseen = blind.ppo_step(FOUR_PROMPTS)
        assert seen["generated_texts"] == unseen["generated_texts"]
        assert (seen["policy_loss"], seen["value_loss"]) == (unseen["policy_loss"], unseen["value_loss"])
        assert seen["observed"].pairs.sequences == 3
        assert "observed" not in unseen
    for one, other in zip(looked.roles.policy.parameters(), blind.roles.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_ratios_and_choices_are_those_of_the_models(folder):
    made = trainer(folder, **SETTINGS, top_k=0, top_p=1.0)
    made.ppo_step(FOUR_PROMPTS)  # so that policy and reference differ
    before = [parameter.detach().clone() for parameter in made.roles.policy.parameters()]
    with made.observer.looking_at(2):
        seen = made.ppo_step(FOUR_PROMPTS)["observed"]
    pairs, mask = seen.pairs, seen.pairs.action_mask
    assert pairs.sequences == 2

    with torch.no_grad():
        after = made.roles.policy.action_logprobs(pairs)
        torch.testing.assert_close(seen.ratios[mask], (after - pairs.old_logprobs).exp()[mask])
        assert (seen.ratios[mask] - 1).abs().max() > 1e-3
        for parameter, value in zip(made.roles.policy.parameters(), before, strict=True):
            parameter.copy_(value)
        for name, model in {"policy": made.roles.policy, "reference": made.roles.sft}.items():
            choices = seen.choices[name]
            assert choices.ids.shape == (*mask.shape, ALTERNATIVES)
            for choice in range(ALTERNATIVES):
                forced = pairs.with_columns(action_ids=torch.where(mask, choices.ids[..., choice], pairs.action_ids))
                torch.testing.assert_close(
                    model.action_logprobs(forced)[mask], choices.logprobs[..., choice][mask], atol=2e-4, rtol=0
                )
            assert (choices.logprobs[mask].diff(dim=-1) <= 0).all()


def test_every_number_of_a_file_is_that_of_the_pairs(recorded, folder, tmp_path):
    again = make(folder, tmp_path / "again", length_reward, kl_coef=0.3, max_new_tokens=6)
    train_set, _, _ = again._prompt_sets(PROMPTS)
    batch = next(train_set.batches(4, again.config.seed))
    with again.observer.looking_at(8):
        results = again.ppo_step(batch)
    tensors, texts = read(recorded / "tokens" / "step-000001.safetensors")
    for name, column in results["observed"].pairs.columns().items():
        if name != "support_ids":
            np.testing.assert_array_equal(tensors[name], column.numpy(), err_msg=name)
    np.testing.assert_array_equal(tensors["ratios"], results["observed"].ratios.numpy())
    assert [response["completion"] for response in texts["responses"]] == results["generated_texts"]
    assert [response["prompt"] for response in texts["responses"]] == list(batch.prompts)


def test_rewards_add_up_to_score_minus_kl_cost(recorded):
    files = sorted((recorded / "tokens").iterdir())
    assert [file.name for file in files] == [f"step-{step:06d}.safetensors" for step in range(1, 6)]
    for file in files:
        tensors, texts = read(file)
        mask = tensors["action_mask"]
        cost = texts["kl_coef"] * np.where(mask, tensors["kl"], 0).sum(axis=1)
        np.testing.assert_allclose(tensors["rewards"].sum(axis=1), tensors["scores"] - cost, atol=1e-5)


def test_pieces_are_the_prompt_and_the_response(recorded):
    tensors, texts = read(recorded / "tokens" / "step-000003.safetensors")
    for row, response in enumerate(texts["responses"]):
        assert len(response["pieces"]) == tensors["attention_mask"][row].sum()
        text = "".join(response["pieces"])
        assert text.startswith(response["prompt"])
        assert response["completion"] in text
    known = set(map(int, texts["vocabulary"]))
    assert set(tensors["policy_choices"].flatten().tolist()) <= {*known, -1}


@pytest.mark.parametrize(("every", "steps"), [(2, [2, 4, 5]), (0, [])])
def test_token_samples_every(folder, tmp_path, every, steps):
    out = tmp_path / "run"
    make(folder, out, length_reward, token_samples_every=every).train(PROMPTS, quiet=True)
    assert sorted(int(file.stem.removeprefix("step-")) for file in (out / "tokens").glob("*")) == steps


def test_a_resumed_run_forgets_the_tokens_of_later_steps(folder, tmp_path):
    out = tmp_path / "run"
    settings = dict(token_samples_every=1, save_every=2, keep_checkpoints=5)

    def fails_in_step_four(prompts, completions, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) == 6:
            raise ValueError("no answer")
        return length_reward(prompts, completions)

    with pytest.raises(Exception, match="no answer"):
        make(folder, out, fails_in_step_four, **settings).train(PROMPTS, quiet=True)
    (out / "tokens" / "step-000099.safetensors").write_bytes(b"of a step that will be made again")
    make(folder, out, fails_in_step_four, **settings).train(PROMPTS, resume=out, quiet=True, allow_changes=True)
    assert len(list((out / "tokens").iterdir())) == 5


def test_a_response_with_holes(base):
    """Two turns: what an environment said has no numbers, and its text is among the pieces."""
    pairs = make_pairs(rows=4, vocabulary=len(base.tokenizer), dtype=torch.float32, holes=True)
    prompts = PromptSet(FOUR_PROMPTS, {"topic": list("abcd")})
    told = describe_tokens(7, ObservedTokens(pairs), prompts, ["text"] * 4, {"good": [1.0] * 4}, base.tokenizer, 0.3)
    assert (pairs.response_mask & ~pairs.action_mask).any()
    assert [len(pieces) for pieces in told.pieces] == pairs.attention_mask.sum(dim=1).tolist()
    assert torch.equal(told.tensors["action_mask"], pairs.action_mask)
    assert told.prompt_columns == [{"topic": topic} for topic in "abcd"]
