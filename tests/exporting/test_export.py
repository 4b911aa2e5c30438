"""What is exported is what was trained, for plain libraries and for a later run."""

import json

import pytest
import torch
import yaml

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.cli.main import main
from ppo_lm.config import ExportConfig
from ppo_lm.errors import ConfigError, ModelError, RunPaused, UserError
from ppo_lm.exporting import run_export
from ppo_lm.exporting.vllm import largest_rank
from ppo_lm.models.model_card import CARD
from tests.conftest import make_pairs
from tests.exporting.conftest import SETTINGS, run_section
from tests.ppo_trainer.conftest import PROMPTS, Signals, length_reward, make

pytestmark = pytest.mark.fast
CLOSE = dict(rtol=1e-4, atol=1e-4)
PAIRS = make_pairs(rows=1, dtype=torch.float32)


def logits(policy):
    with policy.base.role(policy.role), torch.no_grad():
        return policy.base.network(PAIRS.input_ids).logits


def values(trainer):
    with torch.no_grad():
        return trainer.roles.value.values(PAIRS)


def export(run, out, **settings):
    notes = []
    exported = run_export(ExportConfig(run=str(run), out=str(out), **settings), notes.append)
    return exported, notes


def from_exported_value(folder, exported):
    """A new trainer whose value model starts from the export."""
    config = PPOConfig(model_name=folder, value_model=str(exported.folder / "value"), lora_r=8, device="cpu")
    return PPOTrainer(config, reward=length_reward)


def test_every_part_of_a_finished_run_is_what_was_trained(trained, folder, tmp_path):
    trainer, run = trained
    exported, _ = export(run, tmp_path / "out")
    assert exported.parts == ["adapter", "merged", "value"]
    assert {path.name for path in exported.folder.iterdir()} == {*exported.parts, CARD, "learning_curve.png"}
    card = (exported.folder / CARD).read_text()
    with torch.no_grad():
        for part in ("adapter", "merged"):
            found = run_section(card, part, exported.folder)
            torch.testing.assert_close(found["model"](PAIRS.input_ids).logits, logits(trainer.roles.policy), **CLOSE)
            assert found["tokenizer"].decode(PAIRS.input_ids[0]) == trainer.base.tokenizer.decode(PAIRS.input_ids[0])
        found = run_section(card, "value", exported.folder)["values"](PAIRS.input_ids, PAIRS.attention_mask)
    torch.testing.assert_close(found[:, -PAIRS.action_ids.shape[1] - 1 : -1], values(trainer), **CLOSE)
    assert values(trainer).abs().max() > 1e-2
    assert torch.equal(values(from_exported_value(folder, exported)), values(trainer))


def test_an_unfinished_run_exports_its_last_checkpoint(folder, tmp_path):
    class Fails(Signals):
        def __call__(self, prompts, completions):
            if self.calls == 3:
                raise OSError("the service is down")
            return super().__call__(prompts, completions)

    trainer = make(folder, tmp_path / "run", Fails(), **{**SETTINGS, "steps": 9, "eval_prompts": 0})
    with pytest.raises(RunPaused):
        trainer.train(PROMPTS, quiet=True)
    exported, notes = export(tmp_path / "run", tmp_path / "out")
    assert exported.parts == ["adapter", "merged", "value"]
    assert any("is not finished; this is its policy after step 3" in note for note in notes)
    card = (exported.folder / CARD).read_text()
    assert "is not finished" in card and (exported.folder / "learning_curve.png").is_file()
    with torch.no_grad():
        found = run_section(card, "adapter", exported.folder)["model"](PAIRS.input_ids).logits
    torch.testing.assert_close(found, logits(trainer.roles.policy), **CLOSE)
    assert torch.equal(values(from_exported_value(folder, exported)), values(trainer))


def test_a_run_of_all_weights_has_only_a_merged_model(folder, tmp_path):
    trainer = make(folder, tmp_path / "run", length_reward, **{**SETTINGS, "lora_r": 0, "eval_prompts": 0})
    trainer.train(PROMPTS, quiet=True)
    exported, notes = export(tmp_path / "run", tmp_path / "out")
    assert exported.parts == ["merged"]
    assert any(note.startswith("no adapter: it trained all weights") for note in notes)
    assert any(note.startswith("no value: its value model is a whole network") for note in notes)
    with torch.no_grad():
        found = run_section((exported.folder / CARD).read_text(), "merged", exported.folder)["model"]
        torch.testing.assert_close(found(PAIRS.input_ids).logits, logits(trainer.roles.policy), **CLOSE)
    with pytest.raises(ConfigError, match="parts names adapter, but it trained all weights"):
        export(tmp_path / "run", tmp_path / "again", parts=["adapter"])


def test_a_head_on_the_policys_states_is_no_value_model_for_others(folder, tmp_path):
    settings = {**SETTINGS, "steps": 1, "eval_prompts": 0, "value_backbone": "shared"}
    make(folder, tmp_path / "run", length_reward, **settings).train(PROMPTS, quiet=True)
    with pytest.raises(ConfigError, match="parts names value, but its value model is a head on the policy's hidden"):
        export(tmp_path / "run", tmp_path / "out", parts=["value"])
    assert export(tmp_path / "run", tmp_path / "out")[0].parts == ["adapter", "merged"]


def test_runs_of_the_other_stages(folder, tmp_path):
    rows = [
        {
            "prompt": f"My boss {n} TL;DR:",
            "completion": f"I quit {n}.",
            "chosen": f"I quit {n}.",
            "rejected": f"No {n}.",
        }
        for n in range(12)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = [f"--model_name={folder}", "--lora_r=4", "--held_out=4", "--batch_size=4", "--max_steps=1", "--device=cpu"]
    reward = [f"--reward={tmp_path / 'reward'}"]
    for stage, options, parts in (
        ("sft", [f"--demonstrations={data}"], ["adapter", "merged"]),
        ("reward", [f"--preferences={data}"], ["reward"]),
        ("value", [f"--demonstrations={data}", *reward], ["value"]),
    ):
        main([stage, *small, *options, f"--output_dir={tmp_path / stage}"])
        exported = run_export(ExportConfig(run=str(tmp_path / stage)))
        assert (exported.folder, exported.parts) == (tmp_path / stage / "export", parts)
        assert "| loss | " in (exported.folder / CARD).read_text() or stage != "sft"
    config = PPOConfig(
        model_name=folder,
        reward=str(tmp_path / "reward" / "export" / "reward"),
        value_model=str(tmp_path / "value" / "export" / "value"),
        device="cpu",
    )
    PPOTrainer(config)


def test_nothing_is_overwritten(trained, tmp_path, capsys):
    _, run = trained
    names = []
    for _ in range(2):
        main(["export", str(run), "--parts", "value"])
        names.append(capsys.readouterr().out.split(":")[0])
    assert names == [f"written to {run / 'export'}", f"written to {run / 'export-2'}"]
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ConfigError, match="exists and is not empty"):
        export(run, tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "run is not set; give the folder of a run: ppo-lm export RUN"),
        ({"run": "{tmp}/nowhere"}, "but there is no such folder"),
        ({"run": "{tmp}"}, "which holds no run"),
        ({"run": "{model}"}, "which holds no run"),
        ({"run": "{tmp}/other"}, "is not the configuration of a run of train"),
        ({"run": "{tmp}/empty"}, "has nothing to export: the run in .* has no policy"),
        ({"run": "{run}", "parts": ["reward"]}, "parts names reward, but a run of ppo-lm train has none"),
        ({"parts": ["adaptor"]}, "did you mean 'adapter'"),
        ({"run": "{run}", "parts": ["gguf"], "gguf_converter": "{tmp}/none.py"}, "but there is no such file"),
        ({"gguf_converter": "x.py"}, "gguf_converter is set, but parts does not name gguf"),
        ({"push_to_hub": "name"}, "it must be OWNER/NAME"),
        ({"dry_run": True}, "dry_run is set, but push_to_hub is not"),
        ({"run": "{run}", "push_to_hub": "me/it"}, "HF_HUB_OFFLINE forbids the network"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_sentence(settings, said, trained, folder, tmp_path):
    places = {"tmp": tmp_path, "model": folder, "run": trained[1]}
    for name, config in {"other": {"colour": "blue"}, "empty": {"steps": 3, "ppo_epochs": 1}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
    filled = {name: value.format(**places) if isinstance(value, str) else value for name, value in settings.items()}
    with pytest.raises((UserError, ModelError), match=said):
        run_export(ExportConfig(**filled))


CONVERTER = """
import sys
from safetensors.numpy import load_file
import gguf
model, _, out, _, kind = sys.argv[1:]
assert kind == "f32"
writer = gguf.GGUFWriter(out, "llama")
for name, weight in load_file(model + "/model.safetensors").items():
    writer.add_tensor(name, weight)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""


def test_gguf_is_made_by_the_converter_that_is_named_or_on_the_path(trained, tmp_path, monkeypatch):
    gguf = pytest.importorskip("gguf")
    trainer, run = trained
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text(CONVERTER)
    exported, _ = export(run, tmp_path / "named", parts=["gguf"], gguf_converter=str(script))
    assert {path.name for path in exported.folder.iterdir()} == {"run-f32.gguf", CARD, "learning_curve.png"}
    assert "`run-f32.gguf`" in (exported.folder / CARD).read_text()
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(exported.folder / "run-f32.gguf").tensors}
    expected = trainer.base.merged_weights("policy").weights
    name = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(torch.tensor(found[name]).reshape(expected[name].shape), expected[name])
    monkeypatch.setenv("PATH", str(tmp_path))
    script.write_text("import sys\nsys.exit('BPE pre-tokenizer was not recognized')")
    script.chmod(0o755)
    with pytest.raises(UserError, match="did not convert the merged model: BPE pre-tokenizer was not recognized; "):
        export(run, tmp_path / "failed", parts=["gguf", "merged"])
    assert not (tmp_path / "failed").exists()
    script.unlink()
    with pytest.raises(ConfigError, match="uv tool install convert-hf-to-gguf"):
        export(run, tmp_path / "missing", parts=["gguf"])


def test_the_rank_that_vllm_is_started_with():
    assert [largest_rank({"r": r}) for r in (1, 4, 16, 17, 300, 512, 513)] == [1, 8, 16, 32, 320, 512, None]
    assert largest_rank({"r": 8, "rank_pattern": {"q_proj": 4}}) is None
