"""A resumed run says what has changed since it was paused, and continues with a change only if told to."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.base_setup import add_adapter, load_base, make_lora_config
from ppo_lm.cli.main import main
from ppo_lm.errors import CheckpointError, RunPaused
from ppo_lm.models import RewardModel

JUDGE = """
def helper(text):
    return len(text) / {divisor}

def judge(completions, answer):  {comment}
    {stop}
    return [helper(text) + value for text, value in zip(completions, answer)]
"""
STOP = "raise ConnectionError('out')"
ROWS = [{"prompt": f"word {n} and", "answer": n % 3} for n in range(12)]


class Paused:
    """A run that was paused in its first step, with everything that it depends on in `tmp_path`."""

    def __init__(self, folder, tmp_path):
        self.path = tmp_path
        self.model = tmp_path / "model"
        shutil.copytree(folder, self.model)
        self.write_judge(stop=STOP)
        self.write_rows(ROWS)
        self.config = PPOConfig(
            model_name=str(self.model),
            prompts=str(tmp_path / "prompts.jsonl"),
            reward=f"{tmp_path / 'judge.py'}:judge",
            output_dir=str(tmp_path / "run"),
            steps=2,
            batch_size=4,
            eval_prompts=0,
            max_new_tokens=3,
            mini_batches=1,
            lora_r=2,
            save_merged=False,
        )
        with pytest.raises(RunPaused):
            PPOTrainer(self.config).train(quiet=True)
        self.write_judge(stop=STOP)

    def write_judge(self, divisor=10, comment="", stop="pass"):
        (self.path / "judge.py").write_text(JUDGE.format(divisor=divisor, comment=comment, stop=stop))

    def write_rows(self, rows):
        (self.path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def resume(self, **options):
        return PPOTrainer(self.config).train(resume=self.path / "run", quiet=True, **options)

    def refusal(self):
        with pytest.raises(CheckpointError) as caught:
            self.resume()
        return str(caught.value)


@pytest.fixture
def paused(folder, tmp_path):
    return Paused(folder, tmp_path)


def test_the_code_of_a_reward(paused):
    paused.write_judge(stop=STOP, comment="# nothing but a comment")
    with pytest.raises(RunPaused, match="ConnectionError"):
        paused.resume()
    paused.write_judge(divisor=20)  # in a helper
    message = paused.refusal()
    assert "the run to resume has changed: the code (compared by file) or weights of reward 'judge' changed" in message
    assert "continue anyway with --allow_changes" in message
    assert (paused.path / "run" / "traceback.txt").exists()
    paused.resume(allow_changes=True)
    assert (paused.path / "run" / "adapter").is_dir()
    assert not (paused.path / "run" / "traceback.txt").exists()


def test_a_column_of_the_prompts(paused):
    paused.write_rows([*ROWS[:-1], {**ROWS[-1], "answer": 7}])
    assert "has changed: column 'answer' of the prompts changed; undo" in paused.refusal()
    paused.write_rows([{**row, "source": "web"} for row in ROWS])
    assert "has changed: column 'source' of the prompts is new; undo" in paused.refusal()


def test_other_prompts_are_refused_whatever_is_allowed(paused):
    """Others would be held out, some of them trained on already."""
    paused.write_rows(ROWS[1:])
    for allowed in (False, True):
        with pytest.raises(CheckpointError, match="the prompts changed; .*a run cannot continue on other data: undo"):
            paused.resume(allow_changes=allowed)


def test_the_weights_of_the_model_in_the_same_folder(paused):
    file = paused.model / "model.safetensors"
    tensors = load_file(file)
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name][3, 5] += 0.01
    save_file(tensors, file, metadata={"format": "pt"})
    assert "has changed: the weights of the base model changed; undo" in paused.refusal()


def test_the_number_of_threads(paused):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert f"the number of CPU threads was {threads} and is {threads + 1}" in paused.refusal()
    finally:
        torch.set_num_threads(threads)


def test_the_versions(paused, monkeypatch):
    monkeypatch.setattr("ppo_lm.run.identity.version", lambda package: f"{package} 99")
    assert "the version of transformers was '5" in paused.refusal()


def test_the_rows_of_the_metrics(paused):
    config = replace(paused.config, output_dir=str(paused.path / "other"))
    paused.write_judge(stop="judge.calls = getattr(judge, 'calls', 0) + 1\n    assert judge.calls < 2")
    with pytest.raises(RunPaused, match="after step 1"):
        PPOTrainer(config).train(quiet=True)
    file = paused.path / "other" / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[-1]["kl"] += 1
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(CheckpointError, match="has changed: metrics.jsonl changed; undo"):
        PPOTrainer(config).train(resume=paused.path / "other", quiet=True)


def test_a_change_is_allowed_on_the_command_line(paused, capsys):
    paused.write_judge(divisor=20)
    resume = ["train", "--resume", str(paused.path / "run")]
    with pytest.raises(SystemExit) as ended:
        main(resume)
    assert ended.value.code == 1 and "reward 'judge' changed; undo this" in capsys.readouterr().err
    main([*resume, "--allow_changes"])
    printed = capsys.readouterr().out
    assert "continuing with a change: the code (compared by file) or weights of reward 'judge' changed" in printed
    with pytest.raises(SystemExit):
        main(["train", "--allow_changes"])
    assert "--allow_changes belongs to --resume" in capsys.readouterr().err


def test_an_edited_config_is_a_change_of_settings(paused, capsys):
    file = paused.path / "run" / "config.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "kl_coef": 0.5}))
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(paused.path / "run")])
    assert "has changed: kl_coef was 0.1 and is 0.5; undo" in capsys.readouterr().err


def test_a_reward_model_in_the_same_folder(folder, tmp_path):
    def write_reward(seed):
        torch.manual_seed(seed)
        base = load_base(folder, "float32", "cpu")
        add_adapter(base, "reward", make_lora_config(2, 4, 0.0, "all-linear"))
        RewardModel(base).save(tmp_path / "reward")

    def monitor(completions):
        raise ConnectionError("out")

    def trainer():
        return PPOTrainer(
            PPOConfig(
                model_name=folder,
                reward=str(tmp_path / "reward"),
                output_dir=str(tmp_path / "run"),
                steps=1,
                batch_size=4,
                mini_batches=1,
                eval_prompts=0,
                max_new_tokens=3,
                lora_r=2,
                save_merged=False,
            ),
            monitor=monitor,
        )

    write_reward(0)
    with pytest.raises(RunPaused):
        trainer().train([row["prompt"] for row in ROWS], quiet=True)
    write_reward(1)
    with pytest.raises(CheckpointError, match="code .compared by file. or weights of reward 'reward_model' changed"):
        trainer().train([row["prompt"] for row in ROWS], resume=Path(tmp_path / "run"), quiet=True)
    write_reward(0)
    with pytest.raises(RunPaused):
        trainer().train([row["prompt"] for row in ROWS], resume=tmp_path / "run", quiet=True)
