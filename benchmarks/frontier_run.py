"""One run of `frontier.py`, ours or TRL's: one folder with `result.json`, which has the score and the KL of every
batch, and those of the held-out prompts after training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers
import trl.experimental.ppo.ppo_trainer as trl_ppo
from datasets import Dataset
from frontier import SETTINGS, TASKS, model_folder
from learning import ROOT
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig as TRLPPOConfig
from trl.experimental.ppo import PPOTrainer as TRLPPOTrainer
from trl_learning import Rows, kl_of_samples, lora, shared_arguments

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.data import PromptSet, load_prompts
from ppo_lm.data.encoding import encode_prompt
from ppo_lm.rewards import Responses, Reward, load_reward

sys.path.insert(0, str(ROOT / "examples"))
from smollm2_sentiment import OPENINGS, SUBJECTS


def make_config(task: str, seed: int, **options) -> PPOConfig:
    settings = {
        name: value for name, value in TASKS[task].items() if name not in ("model", "prompts", "reward", "answers")
    }
    return PPOConfig(
        model_name=str(model_folder(task) / "policy"),
        dtype="float32",
        lora_r=16,
        lora_alpha=32,
        lora_dropout=0.0,
        seed=seed,
        value_learning_rate=1e-3,
        adam_epsilon=1e-8,
        **SETTINGS,
        **settings,
        **options,
    )


def make_prompts(task: str, config: PPOConfig) -> tuple[PromptSet, PromptSet]:
    """(training prompts, held-out prompts)."""
    source = (
        [f"{subject} {opening}" for subject in SUBJECTS for opening in OPENINGS]
        if TASKS[task]["prompts"] == "openings"
        else TASKS[task]["prompts"]
    )
    shuffled, _ = load_prompts(source, config)[0].split(0, config.seed)
    rows, held_out = list(range(len(shuffled))), config.eval_prompts
    return shuffled.select(rows[held_out:]), shuffled.select(rows[:held_out])


def train_ours(task: str, config: PPOConfig, train: PromptSet, held_out: PromptSet) -> dict:
    trainer, rows = PPOTrainer(config, reward=load_reward(TASKS[task]["reward"])), []
    for batch, _ in zip(train.batches(config.batch_size, config.seed), range(config.steps)):
        rows.append(trainer.ppo_step(batch.prompts, None))
    policy = trainer.roles.policy.base.merged_network(trainer.roles.policy.role).network
    return {"score": [row["score"] for row in rows], "kl": [row["kl"] for row in rows]} | evaluate(
        policy, task, config, held_out.prompts
    )


class ScorerModule(torch.nn.Module):
    """Takes the place of TRL's reward model; `get_reward` calls its reward."""

    def __init__(self, tokenizer, reward: Reward):
        super().__init__()
        self.tokenizer, self.reward = tokenizer, reward

    def scores(self, query_responses: torch.Tensor, context_length: int) -> torch.Tensor:
        prompts, completions = (
            self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            for ids in query_responses.tensor_split([context_length], dim=1)
        )
        return self.reward.score(Responses(prompts, completions)).total.float()


def train_trl(task: str, config: PPOConfig, train: PromptSet, held_out: PromptSet, folder: Path) -> dict:
    tokenizer, rows, get_reward = load_tokenizer(task), Rows(), trl_ppo.get_reward
    reward = ScorerModule(tokenizer, load_reward(TASKS[task]["reward"]))

    def get_any_reward(model, query_responses, pad_token_id, context_length):
        if model is reward:
            return None, reward.scores(query_responses, context_length), None
        return get_reward(model, query_responses, pad_token_id, context_length)

    trl_ppo.get_reward = get_any_reward
    data = Dataset.from_list([{"input_ids": encode_prompt(tokenizer, prompt)} for prompt in train.prompts])
    arguments = TRLPPOConfig(
        **shared_arguments(config, folder, config.learning_rate),
        per_device_train_batch_size=config.batch_size,
        num_mini_batches=config.mini_batches,
        num_ppo_epochs=config.ppo_epochs,
        total_episodes=config.steps * config.batch_size,
        response_length=config.max_new_tokens,
        stop_token="eos",
        missing_eos_penalty=None,
        kl_coef=config.kl_coef,
        gamma=config.gamma,
        lam=config.lam,
        num_sample_generations=0,
    )
    trainer = TRLPPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=load_policy(task),
        ref_model=None,
        reward_model=reward,
        value_model=AutoModelForSequenceClassification.from_pretrained(
            model_folder(task) / "value", dtype=torch.float32
        ),
        train_dataset=data,
        eval_dataset=data.select(range(1)),
        peft_config=lora(config.lora_r),
        callbacks=[rows],
    )
    trainer.train()
    kept = [row for row in rows.rows if "objective/scores" in row]
    result = {"score": [row["objective/scores"] for row in kept], "kl": [row["objective/kl"] for row in kept]}
    policy = trainer.accelerator.unwrap_model(trainer.model).policy.merge_and_unload()
    return result | evaluate(policy.eval(), task, config, held_out.prompts)


@torch.no_grad()
def evaluate(
    policy: transformers.PreTrainedModel, task: str, config: PPOConfig, prompts: list[str]
) -> dict[str, float]:
    """The mean reward of the task's number of `answers` to every prompt, and their k1 KL to the initial policy, summed
    over tokens and averaged over answers, computed with transformers alone."""
    tokenizer, reference, answers = load_tokenizer(task), load_policy(task), TASKS[task]["answers"]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    ids, mask = batch["input_ids"].repeat(answers, 1), batch["attention_mask"].repeat(answers, 1)
    torch.manual_seed(0)
    sampled = policy.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=True,
        temperature=config.temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=config.max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )[:, ids.shape[1] :]
    ends = sampled == tokenizer.eos_token_id
    real = ends.long().cumsum(dim=1) - ends.long() == 0
    kl = kl_of_samples(policy, reference, ids, mask, sampled, real, config.temperature)
    texts = [tokenizer.decode(row[keep], skip_special_tokens=True) for row, keep in zip(sampled, real)]
    found = load_reward(TASKS[task]["reward"]).score(Responses(prompts * answers, texts)).total
    return {"final_score": float(found.mean()), "final_kl": kl}


def load_policy(task: str) -> transformers.PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(model_folder(task) / "policy", dtype=torch.float32).eval()


def load_tokenizer(task: str):
    return AutoTokenizer.from_pretrained(model_folder(task) / "policy", padding_side="left")


def main(folder: Path, task: str, side: str, seed: int, options: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = make_config(task, seed, **options)
    train, held_out = make_prompts(task, config)
    result = (
        train_ours(task, config, train, held_out)
        if side == "ppo_lm"
        else train_trl(task, config, train, held_out, folder)
    )
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), json.loads(sys.argv[5]))
