"""TRL 1.12's PPO on a workload, timed by phase: one process, one JSON line. `against.py` calls this.

TRL's code is unchanged. The phases are separated at the functions that it calls: sampling ends with `batch_generation`,
scoring with the first forward pass that has gradients, training with `log`.

TRL always samples from the whole vocabulary. `top_k` and `top_p` are put into its generation config. The old
log-probabilities, which it takes from the sampling logits, are then those of the truncated distribution, while the
policy's and the reference's remain those of the whole vocabulary, so that the first ratios are not 1.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers
import trl.experimental.ppo.ppo_trainer as trl_ppo
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer
from workloads import Workload, make_prompts, read_arguments

from ppo_lm.tracking import peak_memory


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main(workload: Workload, folder: Path, steps: int, warm_up: int, *, top_k: int = 0, top_p: float = 1.0) -> None:
    marks, done = {}, []

    def make_generation_config(**options) -> GenerationConfig:
        return GenerationConfig(**options | {"top_k": top_k, "top_p": top_p})

    def timed(function, start: str | None, end: str | None):
        def call(*arguments, **options):
            if start:
                marks.setdefault(start, now())
            elif torch.is_grad_enabled():
                marks.setdefault("training", now())
            result = function(*arguments, **options)
            if end:
                marks[end] = now()
            return result

        return call

    trl_ppo.GenerationConfig = make_generation_config
    trl_ppo.batch_generation = timed(trl_ppo.batch_generation, "sampling", "sampled")
    trl_ppo.forward = timed(trl_ppo.forward, None, None)

    class Timed(PPOTrainer):
        def log(self, *arguments, **options):
            end = now()
            done.append(
                {
                    "sampling": marks["sampled"] - marks["sampling"],
                    "scoring": marks["training"] - marks["sampled"],
                    "training": end - marks["training"],
                    "step": end - marks["sampling"],
                    "peak_memory_mib": peak_memory(next(self.model.parameters()).device),
                }
            )
            marks.clear()
            return super().log(*arguments, **options)

    def load(kind, role):
        return kind.from_pretrained(folder / role, dtype=torch.float32)

    rows, on_gpu = workload.trl_rows or workload.prompts, torch.cuda.is_available()
    lora = None
    if workload.lora_r:
        lora = LoraConfig(
            r=workload.lora_r,
            lora_alpha=2 * workload.lora_r,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    updates = warm_up + steps
    prompts = make_prompts(
        workload, workload.prompts * updates, AutoConfig.from_pretrained(folder / "policy").vocab_size
    )
    dataset = Dataset.from_list([{"input_ids": ids} for ids in prompts])
    with tempfile.TemporaryDirectory() as out:
        config = PPOConfig(
            output_dir=out,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=not on_gpu,
            bf16=on_gpu,
            gradient_checkpointing=False,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=workload.prompts // rows,
            num_mini_batches=1,
            num_ppo_epochs=workload.epochs,
            total_episodes=workload.prompts * updates,
            local_rollout_forward_batch_size=workload.trl_rollout_rows or workload.prompts,
            response_length=workload.new_tokens,
            temperature=1.0,
            stop_token=None,
            missing_eos_penalty=None,
            learning_rate=1e-5,
            num_sample_generations=0,
        )
        trainer = Timed(
            args=config,
            processing_class=tokenizer,
            model=load(AutoModelForCausalLM, "policy"),
            ref_model=None if lora else load(AutoModelForCausalLM, "policy"),
            reward_model=load(AutoModelForSequenceClassification, "reward"),
            value_model=load(AutoModelForSequenceClassification, "value"),
            train_dataset=dataset,
            eval_dataset=dataset.select(range(1)),
            peft_config=lora,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    print(json.dumps(done[warm_up:]))


if __name__ == "__main__":
    workload, folder, steps, warm_up, settings = read_arguments(sys.argv[1:])
    main(workload, folder, steps, warm_up, **settings)
