"""TRL's PPO, GRPO or RLOO on the embedded task: one run, one folder with `result.json`. `learning.py` calls this.

    python benchmarks/trl_learning.py FOLDER SEED '{"trainer": "ppo", "learning_rate": 0.0003, "lora_r": 16,
                                                    "batch_size": 8, "ppo_epochs": 4, "kl_coef": 0.1}'

The policy, the posts, the number of samples, the lengths and the temperature are those of the embedded settings. The
reward model is also the same, converted to the plain sequence classifier that TRL expects: its adapter is merged, and
its normalisation is folded into the head. The value model of TRL's PPO trains all its weights and starts from the
reward model; ours starts from `ppo-lm value`, a stage that TRL does not have. For a response without EOS, TRL's PPO
subtracts a penalty from the score, while ours and the reward function used for TRL's other trainers give a fixed score
instead. Everything not mentioned here is TRL's default.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import torch
import transformers
import trl.experimental.ppo.ppo_trainer as trl_ppo
from datasets import Dataset
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.ppo import PPOConfig as TRLPPOConfig
from trl.experimental.ppo import PPOTrainer as TRLPPOTrainer

from ppo_lm import PPOConfig
from ppo_lm.base_setup import EMBEDDED_MODEL
from ppo_lm.config.files import embedded_settings
from ppo_lm.data import load_prompts
from ppo_lm.data.encoding import encode_prompt, pad
from ppo_lm.embedded.gold import gold
from ppo_lm.models.reward_model import HEAD_FILE, NORMALISATION_FILE

MODEL, REWARD = EMBEDDED_MODEL, EMBEDDED_MODEL / "reward"
RESPONSES_PER_PROMPT = 4  # for GRPO and RLOO


def load_policy() -> transformers.PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


def load_scorer() -> transformers.PreTrainedModel:
    """The embedded reward model as a sequence classifier: adapter merged, (w·h + b − mean) / std as its head."""
    merged = PeftModel.from_pretrained(load_policy(), REWARD).merge_and_unload()
    scorer = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=1, dtype=torch.float32)
    scorer.model.load_state_dict(merged.model.state_dict())
    head, normalisation = (
        load_file(REWARD / HEAD_FILE),
        json.loads((REWARD / NORMALISATION_FILE).read_text(encoding="utf-8")),
    )
    scorer.score = torch.nn.Linear(scorer.config.hidden_size, 1)
    scorer.score.load_state_dict(
        {
            "weight": head["weight"] / normalisation["std"],
            "bias": (head["bias"] - normalisation["mean"]) / normalisation["std"],
        }
    )
    return scorer.eval()


class Task:
    """The posts, and how responses to them are scored."""

    def __init__(self, seed: int, batch_size: int, **changed):
        settings = embedded_settings("train")
        steps = settings["steps"] * settings["batch_size"] // batch_size
        self.settings = PPOConfig(**settings | {"steps": steps, "batch_size": batch_size, "seed": seed, **changed})
        prompts, _ = load_prompts("embedded", self.settings)
        self.train, self.held_out = prompts.split(self.settings.eval_prompts, seed)
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL, padding_side="left")
        self.scorer = load_scorer()
        self.golds: list[float] = []  # one per batch

    def encode(self, prompts: list[str]) -> list[list[int]]:
        return [encode_prompt(self.tokenizer, prompt) for prompt in prompts]

    def cut(self, response: torch.Tensor) -> tuple[list[int], bool]:
        """(the tokens before EOS, whether there is an EOS)."""
        ids = response.tolist()
        ended = self.tokenizer.eos_token_id in ids
        return ids[: ids.index(self.tokenizer.eos_token_id)] if ended else ids, ended

    def gold(self, facts: list, responses: list[tuple[list[int], bool]]) -> float:
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids, _ in responses]
        return statistics.fmean(gold([""] * len(texts), texts, facts, [ended for _, ended in responses]))

    @torch.no_grad()
    def scores(self, prompts: list[list[int]], responses: list[tuple[list[int], bool]]) -> list[float]:
        """The reward model's scores; a fixed score for responses that did not end."""
        rows = [
            prompt + ids + [self.tokenizer.eos_token_id] * ended for prompt, (ids, ended) in zip(prompts, responses)
        ]
        ids, mask = pad(rows, self.tokenizer.pad_token_id, side="left")
        hidden = self.scorer.model(input_ids=ids, attention_mask=mask, position_ids=positions(mask)).last_hidden_state[
            :, -1
        ]
        found = self.scorer.score(hidden).squeeze(-1).tolist()
        return [score if ended else self.settings.missing_eos_score for score, (_, ended) in zip(found, responses)]

    @torch.no_grad()
    def evaluate(self, policy: torch.nn.Module) -> dict[str, float]:
        """The gold score and the reward of one response to each held-out post, and the responses' k1 KL to the initial
        policy: summed over tokens, averaged over responses."""
        settings, reference, prompts = self.settings, load_policy().eval(), self.encode(self.held_out.prompts)
        ids, mask = pad(prompts, self.tokenizer.pad_token_id, side="left")
        torch.manual_seed(0)
        sampling = dict(
            do_sample=True, temperature=settings.temperature, top_k=0, top_p=1.0, max_new_tokens=settings.max_new_tokens
        )
        sampled = policy.eval().generate(
            input_ids=ids, attention_mask=mask, **sampling, pad_token_id=self.tokenizer.pad_token_id
        )[:, ids.shape[1] :]
        responses = [self.cut(row) for row in sampled]
        lengths = torch.tensor([len(tokens) + ended for tokens, ended in responses])
        real = torch.arange(sampled.shape[1]) < lengths[:, None]
        kl = kl_of_samples(policy, reference, ids, mask, sampled, real, settings.temperature)
        return {
            "final": self.gold(self.held_out.columns["facts"], responses),
            "final_score": statistics.fmean(self.scores(prompts, responses)),
            "final_kl": kl,
        }


@torch.no_grad()
def kl_of_samples(
    policy: torch.nn.Module,
    reference: torch.nn.Module,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    sampled: torch.Tensor,
    real: torch.Tensor,
    temperature: float,
) -> float:
    """log π − log π_ref, summed over the real sampled tokens and averaged over rows, computed with transformers alone.
    Prompts (B, P) are left-padded; samples are (B, A)."""
    rows = zip(
        *(
            whole.split(32)
            for whole in (
                torch.cat([prompt_ids, sampled], dim=1),
                torch.cat([prompt_mask, real], dim=1).long(),
                sampled,
                real,
            )
        )
    )
    total = 0.0
    for full, attention, actions, kept in rows:
        logprobs = []
        for network in (policy, reference):
            logits = network(
                input_ids=full,
                attention_mask=attention,
                position_ids=positions(attention),
                logits_to_keep=actions.shape[1] + 1,
            ).logits[:, :-1]
            logprobs.append((logits / temperature).log_softmax(dim=-1).gather(2, actions[:, :, None]).squeeze(2))
        total += float(((logprobs[0] - logprobs[1]) * kept).sum())
    return total / len(sampled)


def positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


class Rows(transformers.TrainerCallback):
    """Everything a trainer logs, one row per batch."""

    def __init__(self):
        self.rows: list[dict] = []

    def on_log(self, arguments, state, control, logs=None, **_):
        self.rows.append(dict(logs))


def lora(rank: int) -> LoraConfig | None:
    return (
        LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
        if rank
        else None
    )


def shared_arguments(settings: PPOConfig, folder: Path, rate: float) -> dict:
    return dict(
        output_dir=str(folder),
        seed=settings.seed,
        learning_rate=rate,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        temperature=settings.temperature,
        logging_steps=1,
    )


def train_ppo(
    task: Task, folder: Path, learning_rate: float, lora_r: int, vf_coef: float = 0.1
) -> tuple[torch.nn.Module, list[dict]]:
    settings, rows = task.settings, Rows()
    encoded = task.encode(task.train.prompts)
    facts = {tuple(ids): fact for ids, fact in zip(encoded, task.train.columns["facts"])}
    generate = trl_ppo.batch_generation

    def batch_generation(model, queries, *rest):
        sampled, logits = generate(model, queries, *rest)
        posts = [tuple(query[query != task.tokenizer.pad_token_id].tolist()) for query in queries]
        task.golds.append(
            task.gold([facts[post] for post in posts], [task.cut(row) for row in sampled[:, queries.shape[1] :]])
        )
        return sampled, logits

    trl_ppo.batch_generation = batch_generation
    data = Dataset.from_list([{"input_ids": ids} for ids in encoded])
    config = TRLPPOConfig(
        **shared_arguments(settings, folder, learning_rate),
        per_device_train_batch_size=settings.batch_size,
        num_mini_batches=settings.mini_batches,
        num_ppo_epochs=settings.ppo_epochs,
        total_episodes=settings.steps * settings.batch_size,
        response_length=settings.max_new_tokens,
        stop_token="eos",
        missing_eos_penalty=-settings.missing_eos_score,
        kl_coef=settings.kl_coef,
        gamma=settings.gamma,
        lam=settings.lam,
        vf_coef=vf_coef,
        num_sample_generations=0,
    )
    trainer = TRLPPOTrainer(
        args=config,
        processing_class=task.tokenizer,
        model=load_policy(),
        ref_model=None if lora_r else load_policy(),
        reward_model=task.scorer,
        value_model=load_scorer(),
        train_dataset=data,
        eval_dataset=data.select(range(1)),
        peft_config=lora(lora_r),
        callbacks=[rows],
    )
    trainer.train()
    kept = [
        {"score": row["objective/scores"], "kl": row["objective/kl"]} for row in rows.rows if "objective/scores" in row
    ]
    return trainer.accelerator.unwrap_model(trainer.model).policy, kept


def train_groups(
    kind: str, task: Task, folder: Path, learning_rate: float, lora_r: int
) -> tuple[torch.nn.Module, list[dict]]:
    settings, columns = task.settings, task.train.columns
    scores: list[float] = []

    def reward(prompts, completion_ids, row, **_) -> list[float]:
        responses = [task.cut(torch.tensor(ids)) for ids in completion_ids]
        task.golds.append(task.gold([columns["facts"][index] for index in row], responses))
        found = task.scores(task.encode(prompts), responses)
        scores.append(statistics.fmean(found))
        return found

    data = Dataset.from_list([{"prompt": prompt, "row": row} for row, prompt in enumerate(task.train.prompts)])
    config_class, trainer_class = (GRPOConfig, GRPOTrainer) if kind == "grpo" else (RLOOConfig, RLOOTrainer)
    config = config_class(
        **shared_arguments(settings, folder, learning_rate),
        per_device_train_batch_size=settings.batch_size // settings.mini_batches,
        steps_per_generation=settings.mini_batches,
        num_iterations=settings.ppo_epochs,
        max_steps=settings.steps * settings.ppo_epochs * settings.mini_batches,
        num_generations=RESPONSES_PER_PROMPT,
        max_completion_length=settings.max_new_tokens,
        beta=settings.kl_coef,
    )
    trainer = trainer_class(
        model=load_policy(),
        args=config,
        processing_class=task.tokenizer,
        reward_funcs=[reward],
        train_dataset=data,
        peft_config=lora(lora_r),
    )
    trainer.train()
    return trainer.accelerator.unwrap_model(trainer.model), [{"score": score} for score in scores]


def main(folder: Path, seed: int, options: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kind = options.pop("trainer")
    task = Task(seed, **{name: options.pop(name) for name in ("batch_size", "ppo_epochs", "kl_coef")})
    policy, rows = train_ppo(task, folder, **options) if kind == "ppo" else train_groups(kind, task, folder, **options)
    result = {
        "batch": task.settings.batch_size,
        "gold": task.golds,
        "score": [row["score"] for row in rows],
        "kl": [row["kl"] for row in rows if "kl" in row],
        **task.evaluate(policy),
    }
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
