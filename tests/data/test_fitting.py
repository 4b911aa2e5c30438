"""Prompts are cut, encoded and checked once, in one place."""

import json
from collections import Counter

import pytest

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.data import DataReport, PromptSet, load_prompts
from ppo_lm.data.fitting import encode_prompt_set, encode_prompts, fit_prompts
from ppo_lm.errors import DataError
from tests.conftest import make_base

pytestmark = pytest.mark.fast

PROMPTS = ["My boss yelled. TL;DR:", "POST: I moved out. TL;DR:", "TL;DR:", "I am sad. TL;DR:", "My sister Karen lied."]
LIMITS = dict(max_prompt_tokens=0, max_new_tokens=10)


def report(count):
    return DataReport("prompts", count, count, 0)


class CountingTokenizer:
    """Wraps a tokenizer, and counts how often each text is encoded."""

    def __init__(self, tokenizer):
        self.tokenizer, self.encoded = tokenizer, Counter()

    def __call__(self, text, **options):
        self.encoded[text] += 1
        return self.tokenizer(text, **options)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


def test_a_run_encodes_each_prompt_once(folder):
    """Three steps of four prompts each and six evaluations see some prompts many times."""
    settings = dict(steps=3, batch_size=4, eval_prompts=2, eval_every=1, max_new_tokens=4)
    trainer = PPOTrainer(PPOConfig(model_name=folder, **settings), reward=lambda completions: [0.0] * len(completions))
    trainer.base.tokenizer = CountingTokenizer(trainer.base.tokenizer)
    trainer.train(PROMPTS)
    assert trainer.base.tokenizer.encoded == dict.fromkeys(PROMPTS, 1)


def test_fitted_prompts_have_the_ids_of_the_cut_text(base):
    long = "My boss yelled at me again. " * 20 + "TL;DR:"
    given = PromptSet([long, "word " * 60, "TL;DR:"], {"id": [1, 2, 3]})
    fitted, found = fit_prompts(given, report(3), base, max_prompt_tokens=40, max_new_tokens=10)
    assert fitted.columns == {"id": [1, 3]} and fitted.prompts[1] == "TL;DR:"
    assert long.startswith(fitted.prompts[0].removesuffix("TL;DR:").strip())
    assert fitted.ids == [base.tokenizer(prompt)["input_ids"] for prompt in fitted.prompts]
    assert (found.used, found.cut, found.lengths) == (2, 1, [len(ids) for ids in fitted.ids])
    assert max(found.lengths) <= 40
    with pytest.raises(DataError, match="none can be used: row 1 has no sentence that ends within max_prompt_tokens 2"):
        fit_prompts(given.select([1]), report(1), base, max_prompt_tokens=2, max_new_tokens=10)


def test_ids_follow_their_prompts(base):
    fitted, _ = fit_prompts(PromptSet(PROMPTS * 4), report(20), base, **LIMITS)
    parts = [*fitted.split(6, seed=1), fitted.draw(9, seed=2), next(fitted.batches(8, seed=0, copies=2))]
    for part in parts:
        assert part.ids == [base.tokenizer(prompt)["input_ids"] for prompt in part.prompts]


def test_token_ids_are_taken_as_they_are_and_can_be_read(base):
    ids = [[5, 6, 7], base.tokenizer("TL;DR:")["input_ids"]]
    assert encode_prompts([*ids, "TL;DR:"], base, 10) == [*ids, ids[1]]
    assert encode_prompt_set(PromptSet(ids, {"n": [1, 2]}), base, 10) == PromptSet(
        [base.tokenizer.decode(ids[0]), "TL;DR:"], {"n": [1, 2]}, ids
    )
    fitted, found = fit_prompts(PromptSet([ids[0], [5] * 9]), report(2), base, max_prompt_tokens=8, max_new_tokens=10)
    assert fitted.ids == [[5, 6, 7]] and "row 2 has no sentence" in str(found.dropped[0])
    with pytest.raises(DataError, match="prompt 0 is empty; prompt 1 has 119 tokens, more than 118"):
        encode_prompts([[], [5] * 119], base, 10)


def test_a_prompt_as_text_and_as_token_ids_is_the_same_prompt(folder, tmp_path):
    seen = []

    def reward(prompts, completions):
        seen.append(prompts)
        return [float(len(completion)) for completion in completions]

    config = PPOConfig(model_name=folder, batch_size=5, mini_batches=1, max_new_tokens=6)
    of_texts, of_ids = PPOTrainer(config, reward=reward), PPOTrainer(config, reward=reward)
    ids = [of_ids.base.tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    texts, tokens = of_texts.ppo_step(PROMPTS), of_ids.ppo_step(ids)
    for name in ("generated_texts", "rewards", "policy_loss", "value_loss", "kl"):
        assert texts[name] == tokens[name]
    assert seen == [PROMPTS, PROMPTS]
    (tmp_path / "ids.jsonl").write_text("\n".join(json.dumps({"prompt": row}) for row in ids))
    assert load_prompts(str(tmp_path / "ids.jsonl"))[0].prompts == load_prompts(ids)[0].prompts == ids


def test_a_column_of_another_length_is_refused():
    with pytest.raises(DataError, match="column 'facts' has 1 values for 2 prompts; give one for each"):
        PromptSet(["a", "b"], {"facts": [1]})


def test_a_prompt_that_is_too_long_is_left_out_and_named(folder, tmp_path):
    prompts = ["word " * 200, *PROMPTS]
    settings = dict(steps=1, batch_size=2, eval_prompts=1, max_new_tokens=4, output_dir=str(tmp_path / "run"))
    trainer = PPOTrainer(PPOConfig(model_name=folder, **settings), reward=lambda completions: [0.0] * len(completions))
    trainer.train(prompts)
    (found,) = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert (found["used"], found["train"] + found["held_out"]) == (5, 5)
    (dropped,) = found["dropped"]
    assert dropped["place"] == "row 1" and "more than 124: the model's context of 128 minus" in dropped["reason"]


def test_a_prompt_must_fit_every_model_of_a_comparison(base):
    short = make_base(max_position_embeddings=20)
    given = PromptSet(["word " * 30, "TL;DR:", ""])
    fitted, found = fit_prompts(given, report(3), base, **LIMITS, also=[short])
    assert fitted.prompts == ["TL;DR:"] and found.used == 1
    assert "more than 10: the model's context of 20" in str(found.dropped[0]) and "empty" in str(found.dropped[1])
    assert len(fit_prompts(given, report(3), base, **LIMITS)[0]) == 2
