"""What goes to verl and OpenRLHF has our numbers, our prompts and our rewards, for plain transformers."""

import importlib.util
import json
import shutil
from itertools import chain

import pytest
import torch
import yaml
from pyarrow import parquet
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.base_setup import load_base, make_lora_config
from ppo_lm.config import ExportConfig
from ppo_lm.data import PromptSet
from ppo_lm.data.encoding import encode_pair, pad
from ppo_lm.errors import ConfigError, DataError, ModelError, RewardError
from ppo_lm.exporting import run_export
from ppo_lm.exporting.elsewhere.networks import write_with_head
from ppo_lm.exporting.elsewhere.prompts import Row, count_read_differently, rows_of
from ppo_lm.exporting.elsewhere.verl import reward_template
from ppo_lm.models import RewardModel
from ppo_lm.models.score_head import ScoreHead
from tests.conftest import make_base, make_pairs
from tests.ppo_trainer.conftest import PROMPTS, length_reward

CLOSE = dict(rtol=1e-4, atol=1e-4)
PAIRS = make_pairs(rows=3, dtype=torch.float32)
BOTH = pytest.mark.parametrize("program", ["verl", "openrlhf"])
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def exported(named, tmp_path_factory):
    """(folder, notes) of the export of each run to each program, by (kind of reward, program)."""
    found = {}
    for kind, run in named.items():
        for program in ("verl", "openrlhf"):
            notes, out = [], tmp_path_factory.mktemp("elsewhere") / "it's there"
            run_export(ExportConfig(run=str(run), to=program, out=str(out)), notes.append)
            found[kind, program] = out, notes
    return found


def read_prompts(out, program):
    """(prompt, label) of the rows to train on and of those held out."""
    if program == "verl":
        tables = [parquet.read_table(out / "data" / f"{part}.parquet").to_pylist() for part in ("train", "held_out")]
        assert {row["data_source"] for row in chain(*tables)} == {"ppo_lm"}
        return [[(row["prompt"], row["reward_model"]["ground_truth"]) for row in rows] for rows in tables]
    files = [out / "data" / f"{part}.jsonl" for part in ("train", "held_out")]
    tables = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return [[(row["prompt"], row["label"]) for row in rows] for rows in tables]


def load_scoring(out):
    spec = importlib.util.spec_from_file_location(f"reward_in_{out.parent.name}", out / "reward.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@BOTH
def test_the_critic_gives_the_values_of_the_run(program, exported, named, folder):
    run, (out, notes) = named["model"], exported["model", program]
    config = PPOConfig(model_name=folder, value_model=str(run / "value"), lora_r=4, device="cpu")
    trainer = PPOTrainer(config, reward=length_reward)
    with torch.no_grad():
        expected = trainer.roles.value.values(PAIRS)
        before = slice(-PAIRS.action_ids.shape[1] - 1, -1)
        positions = (PAIRS.attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        inputs = dict(input_ids=PAIRS.input_ids, attention_mask=PAIRS.attention_mask, position_ids=positions)
        bias = load_file(run / "value" / "head.safetensors")["bias"].item()
        if program == "verl":
            values = AutoModelForTokenClassification.from_pretrained(out / "value").eval()(**inputs).logits[..., 0]
        else:  # its own class has an output layer without bias, called score
            network = AutoModelForSequenceClassification.from_pretrained(out / "value").eval()
            values = network.score(network.model(**inputs).last_hidden_state)[..., 0] + bias
    found = torch.where(PAIRS.action_mask, values[:, before], 0.0)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert expected.abs().max() > 1e-2 and abs(bias) > 1e-3
    assert any(f"its values are the run's minus {bias:.6g}" in note for note in notes) == (program == "openrlhf")


@BOTH
def test_the_reward_model_gives_the_scores_of_the_run_but_for_a_constant_that_is_said(program, exported, named, folder):
    out, notes = exported["model", program]
    base = load_base(folder, device="cpu")
    ids = [
        [token for part in encode_pair(base, prompt, f" I quit {prompt[8]}.") for token in part] for prompt in PROMPTS
    ]
    rows, mask = pad(ids, base.pad_token_id, side="right")
    with torch.no_grad():
        expected = RewardModel.load(base, named["model"].parent / "reward" / "reward").scores(rows, mask)
        classifier = AutoModelForSequenceClassification.from_pretrained(out / "reward").eval()
        found = classifier(input_ids=rows, attention_mask=mask).logits
    assert found.shape == (len(ids), 1)
    constant = next(float(note.rpartition(" ")[2]) for note in notes if "its scores are the run's minus" in note)
    torch.testing.assert_close(found[:, 0] + constant, expected, **CLOSE)
    assert expected.std() > 1e-2


@BOTH
def test_the_reference_is_the_base_and_the_policy_is_what_was_trained(program, exported, named, folder):
    out, _ = exported["model", program]
    ids = PAIRS.input_ids
    with torch.no_grad():
        for name, origin in (("sft", folder), ("policy", named["model"] / "merged")):
            found, expected = (
                AutoModelForCausalLM.from_pretrained(place)(ids).logits for place in (out / name, origin)
            )
            torch.testing.assert_close(found, expected, **CLOSE)
            assert AutoTokenizer.from_pretrained(out / name).get_vocab() == make_base().tokenizer.get_vocab()


@BOTH
def test_the_prompts_are_split_as_in_the_run(program, exported, named):
    run, (out, _) = named["function"], exported["function", program]
    train, held_out = read_prompts(out, program)
    texts = [[json.loads(label)["prompt"] for _, label in rows] for rows in (train, held_out)]
    evaluated = [json.loads(line)["prompt"] for line in (run / "held_out.jsonl").read_text().splitlines()]
    assert set(texts[1]) == set(evaluated) and len(texts[1]) == 2
    assert sorted(texts[0] + texts[1]) == sorted(f"My boss {n} TL;DR:" for n in range(24))
    for prompt, label in train:
        row = json.loads(label)
        expected = row["prompt"] if program == "openrlhf" else [{"role": "user", "content": row["prompt"]}]
        assert prompt == expected
        assert row["columns"]["goal"] == int(row["prompt"].split()[2]) % 7


@BOTH
def test_a_function_gives_other_programs_the_scores_that_the_run_recorded(program, exported, named):
    run, (out, _) = named["function"], exported["function", program]
    labels = {json.loads(label)["prompt"]: label for _, label in chain(*read_prompts(out, program))}
    module, samples = load_scoring(out), [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert len({sample["score"] for sample in samples}) > 2
    for sample in samples:
        prompt, text = sample["prompt"], sample["completion"]
        if program == "verl":
            score = module.compute_score("ppo_lm", text, labels[prompt], extra_info={"index": 0})
        else:
            end = make_base().tokenizer.eos_token
            answer = module.reward_func([prompt + text + end], [prompt], [labels[prompt]])
            score = answer["rewards"]
            assert module.reward_func([prompt + text], [prompt], [labels[prompt]]) == answer
        assert score == pytest.approx(sample["score"])


def test_openrlhf_says_whether_a_response_ended(exported, monkeypatch):
    module, seen, label = load_scoring(exported["function", "openrlhf"][0]), [], json.dumps({"decoded": "Why?"})
    monkeypatch.setattr(module, "score", lambda *given, **known: seen.append((*given, known)) or 0.0)
    for text in (" yes</s>", " yes"):
        monkeypatch.setattr(module, "ENDS", ["</s>"])
        module.reward_func([f"Why?{text}"], ["Why?"], [label])
    assert seen == [(label, " yes", {"terminated": True}), (label, " yes", {"terminated": False})]
    with pytest.raises(ValueError, match="'Why\\?' is not the start of 'How"):
        module.reward_func(["How?"], ["Why?"], [label])


@pytest.mark.parametrize(
    ("prompt", "response"), [("My boss TL;DR:", " I quit.\n"), ([{"role": "user", "content": "My boss?"}], "I quit.\n")]
)
def test_verl_gives_a_reward_model_the_tokens_that_it_was_trained_on(base, prompt, response):
    """As verl does it: the chat template on the whole conversation, then the text to the server that tokenises it."""
    base.tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    base.tokenizer.chat_template = CHATML
    base.eos_token_ids.append(base.tokenizer.convert_tokens_to_ids("<|im_end|>"))
    expected = [token for part in encode_pair(base, prompt, response) for token in part]
    base.tokenizer.chat_template = reward_template(None if isinstance(prompt, str) else CHATML)
    talk = [*Row(prompt).messages, {"role": "assistant", "content": response}]
    assert base.tokenizer(base.tokenizer.apply_chat_template(talk, tokenize=False))["input_ids"] == expected


def test_a_start_token_is_part_of_the_text_where_tokenizers_are_told_to_add_none(base):
    tokenizer = base.tokenizer
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", bos)])
    prompts = PromptSet(["My boss TL;DR:"], ids=[tokenizer("My boss TL;DR:")["input_ids"]])
    [row] = rows_of(prompts, tokenizer)
    assert row.whole == "<s>My boss TL;DR:" and json.loads(row.given)["decoded"].startswith("<s>")
    assert tokenizer(row.whole, add_special_tokens=False)["input_ids"] == prompts.ids[0] and prompts.ids[0][0] == bos
    assert count_read_differently(prompts, tokenizer) == 0


def test_without_a_value_model_of_its_own_the_critic_starts_from_zero(named, folder, tmp_path):
    settings = dict(steps=1, eval_prompts=0, lora_r=0, prompts=str(named["model"].parent / "data.jsonl"))
    reward = dict(reward=f"{named['model'].parent / 'length.py'}:near", save_merged=True)
    trainer = PPOTrainer(
        PPOConfig(model_name=folder, batch_size=4, output_dir=str(tmp_path / "r"), **settings, **reward)
    )
    trainer.train(quiet=True)
    notes = []
    run_export(ExportConfig(run=str(tmp_path / "r"), to="verl", out=str(tmp_path / "out")), notes.append)
    assert any(note.startswith("the critic starts from V = 0: its value model is a whole network") for note in notes)
    critic = AutoModelForTokenClassification.from_pretrained(tmp_path / "out" / "value").eval()
    assert (critic(PAIRS.input_ids).logits == 0).all()
    assert "critic.model.path" in (tmp_path / "out" / "train.sh").read_text()


def test_a_merged_adapter_is_not_rounded_away(tmp_path):
    """In bfloat16, an adapter this small would be lost in the sum."""
    base = make_base(torch.bfloat16)
    base.add_adapter("value", make_lora_config(4, 8, 0.0, "all-linear"))
    with torch.no_grad():
        for weight in base.role_parameters("value"):
            weight.normal_(std=1e-2)
    write_with_head(base, "value", ScoreHead(base.hidden_size), "token", base.tokenizer, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    layer = base.network.get_submodule(name)
    expected = layer.base_layer.weight.float() + layer.get_delta_weight("value").float()
    torch.testing.assert_close(saved[f"{name}.weight"], expected, rtol=0, atol=1e-7)


def test_a_network_without_such_a_classifier_is_refused(base, tmp_path):
    base.network.base_model_prefix = "elsewhere"
    with pytest.raises(ModelError, match="transformers has no token classifier for llama models"):
        write_with_head(base, None, ScoreHead(base.hidden_size), "token", base.tokenizer, tmp_path)


def refused(named, tmp_path, error, match, keep=False, program="verl", **settings):
    """The run with other settings is refused, and nothing is written. Without `keep`, its checkpoint, which would say
    that its rewards were others, is gone."""
    run = shutil.copytree(named["function"], tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | settings))
    if not keep:
        shutil.rmtree(run / "checkpoints")
    with pytest.raises(error, match=match):
        run_export(ExportConfig(run=str(run), to=program, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"mini_batches": 4, "responses_per_prompt": 2}, "verl would have to divide 2 into them"),
        ({"policy_loss": "mine.py:LOSS"}, "policy_loss is mine.py:LOSS, which verl does not have; it has clip"),
        ({"lr_schedule": "mine.py:levels"}, "lr_schedule is mine.py:levels, which verl does not have"),
    ],
)
def test_a_run_that_the_program_cannot_repeat_is_refused(settings, match, named, tmp_path):
    refused(named, tmp_path, ConfigError, match, **settings)


def test_openrlhf_divides_responses_rather_than_prompts(named, tmp_path):
    settings = {"batch_size": 6, "mini_batches": 4, "responses_per_prompt": 2}
    refused(named, tmp_path, ConfigError, "OpenRLHF would have to divide 6", program="openrlhf", **settings)


def test_data_that_has_changed_is_refused(named, tmp_path):
    text = (named["function"].parent / "data.jsonl").read_text()
    (tmp_path / "data.jsonl").write_text(text.replace("My boss 3", "My wife 3"))
    prompts = str(tmp_path / "data.jsonl")
    refused(named, tmp_path, DataError, "the prompts changed since the run", keep=True, prompts=prompts)


def test_a_reward_that_needs_what_only_ppo_lm_knows_is_refused(named, tmp_path):
    (tmp_path / "ended.py").write_text("def ended(completion_ids):\n    return [0.5 for _ in completion_ids]\n")
    reward = f"{tmp_path / 'ended.py'}:ended"
    refused(named, tmp_path, RewardError, "reward ended needs completion_ids, which", program="openrlhf", reward=reward)


def test_a_reward_model_among_other_rewards_is_refused(named, tmp_path):
    rewards = [str(named["model"].parent / "reward"), "length_target(words=3)"]
    refused(named, tmp_path, ConfigError, "reward reward_model loads a model, which verl takes only", reward=rewards)


def test_what_was_given_in_python_is_refused(trained, tmp_path):
    _, run = trained
    with pytest.raises(ConfigError) as problem:
        run_export(ExportConfig(run=str(run), to="openrlhf", out=str(tmp_path / "out")))
    assert "the run's prompts were given in Python" in str(problem.value)
    assert "the run's rewards were given in Python (length_reward)" in str(problem.value)


def test_runs_of_other_stages_and_settings_of_parts_are_refused(named, tmp_path):
    reward = named["model"].parent / "reward"
    with pytest.raises(ConfigError, match=r"is a run of ppo-lm reward; give a run of ppo-lm train"):
        run_export(ExportConfig(run=str(reward), to="verl", out=str(tmp_path / "out")))
    with pytest.raises(ConfigError, match="parts is set, but to is verl"):
        ExportConfig(run="r", to="verl", parts=["merged"])
    with pytest.raises(ConfigError, match="push_to_hub is set, but to is openrlhf"):
        ExportConfig(run="r", to="openrlhf", push_to_hub="me/it")


def test_conversations_stay_conversations(tmp_path):
    base = make_base()
    base.tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    base.tokenizer.chat_template = CHATML
    base.network.resize_token_embeddings(len(base.tokenizer))
    for part in (base.network, base.tokenizer):
        part.save_pretrained(tmp_path / "model")
    talks = [[{"role": "user", "content": f"My boss {n}?"}] for n in range(12)]
    talks[5][0]["content"] += "<|im_end|>"  # which is ordinary text here, and ends the turn elsewhere
    rows = [{"prompt": talk} for talk in talks]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "short.py").write_text(
        "def short(completions):\n    return [-len(c[0]['content']) for c in completions]\n"
    )
    config = PPOConfig(
        model_name=str(tmp_path / "model"),
        prompts=str(tmp_path / "data.jsonl"),
        reward=f"{tmp_path / 'short.py'}:short",
        batch_size=4,
        steps=1,
        lora_r=4,
        eval_prompts=1,
        output_dir=str(tmp_path / "run"),
    )
    PPOTrainer(config).train(quiet=True)
    for program, option in (("verl", "custom_chat_template"), ("openrlhf", "--data.apply_chat_template")):
        notes, out = [], tmp_path / program
        run_export(ExportConfig(run=str(tmp_path / "run"), to=program, out=str(out)), notes.append)
        rows = list(chain(*read_prompts(out, program)))
        assert sorted(prompt[0]["content"] for prompt, _ in rows) == sorted(talk[0]["content"] for talk in talks)
        assert (option in (out / "train.sh").read_text()) == (program == "openrlhf")
        assert [note for note in notes if "1 of " in note and "as other tokens than the run did" in note]
