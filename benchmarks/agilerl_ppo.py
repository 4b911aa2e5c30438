# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#     "agilerl==2.58.0",
#     "accelerate==1.15.*",
#     "datasets==5.0.1",
#     "peft==0.21.0",
#     "torch==2.15.*",
#     "transformers==5.14.1",
# ]
#
# # What the PPO for language models imports, of all that AgileRL requires. Its extra for language models also has
# # liger-kernel, whose Triton kernels would be patched into every model and cannot run on a CPU.
# [[tool.uv.dependency-metadata]]
# name = "agilerl"
# version = "2.58.0"
# requires-dist = [
#     "agilerl-arena>=1.28,<2",
#     "dill",
#     "fastrand",
#     "gymnasium",
#     "lazy-loader",
#     "numpy>=2,<3",
#     "packaging",
#     "pandas",
#     "pettingzoo<1.27",
#     "pillow",
#     "pydantic>=2,<3",
#     "rich",
#     "tensordict==0.13.0",
#     "tqdm",
#     "wandb",
# ]
# ///
"""AgileRL 2.58's PPO for language models on a workload, timed by phase: one process, one JSON line.

`against.py` calls this as `uv run --script`, which gives it an environment of its own: AgileRL's versions are not ours.

AgileRL's code is unchanged, and it samples one prompt at a time. With `together=true` the batch is given to it as one
padded prompt, which its own training never does. The reward is a reward model, as in the other runs, and no token
counts as EOS. AgileRL trains adapters only. Its `top_k` and `top_p` shape the samples, but not the log-probabilities,
which stay those of the whole vocabulary.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import agilerl
import torch
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from workloads import Workload, make_prompts, read_arguments

if TYPE_CHECKING:
    from agilerl.algorithms.ppo_llm import PPO

LORA_R = 16  # where the workload trains all weights
SCORING = ("learn_phase_prepare_s", "learn_phase_no_grad_forward_s")  # log-probabilities, values, advantages


def make_agent(workload: Workload, folder: Path, dtype: torch.dtype, top_k: int, top_p: float) -> PPO:
    """AgileRL's PPO, with the sizes of the workload. Its default, gradient checkpointing, would only slow it down."""
    agilerl.HAS_LLM_DEPENDENCIES = True  # it would ask for liger-kernel too
    from agilerl.algorithms.ppo_llm import PPO

    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    lora_r = workload.lora_r or LORA_R
    agent = PPO(
        pad_token_id=tokenizer.pad_token_id,
        pad_token=tokenizer.pad_token,
        model_name=str(folder / "policy"),
        model_config={"torch_dtype": dtype},
        lora_config=LoraConfig(
            r=lora_r,
            lora_alpha=2 * lora_r,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        batch_size=workload.prompts,
        mini_batch_size=workload.prompts,
        micro_batch_size_per_gpu=workload.prompts,
        update_epochs=workload.epochs,
        max_output_tokens=workload.new_tokens,
        max_model_len=workload.longest + workload.new_tokens + 1,
        lr_actor=1e-5,
        lr_critic=1e-5,
        temperature=1.0,
        top_k=top_k,
        top_p=top_p,
        gradient_checkpointing=False,
        use_liger_loss=False,
        device="cpu",
    )
    agent.actor.generation_config.eos_token_id = None
    return agent


def sample_each(agent: PPO, prompts: list[list[int]]) -> list[torch.Tensor]:
    """A row of prompt and response for each prompt, as AgileRL samples them: one prompt a call of `generate`."""
    return agent.get_action([{"input_ids": torch.tensor([prompt])} for prompt in prompts]).token_ids


def sample_together(agent: PPO, prompts: list[list[int]]) -> list[torch.Tensor]:
    """The same in one call of `generate`. The padding is taken off again, because `learn` would not mask it."""
    width = max(map(len, prompts))
    padding = [width - len(prompt) for prompt in prompts]
    batch = {
        "input_ids": torch.tensor([[agent.pad_token_id] * n + prompt for n, prompt in zip(padding, prompts)]),
        "attention_mask": torch.tensor([[0] * n + [1] * (width - n) for n in padding]),
    }
    rows = agent.get_action([batch]).token_ids[0]
    return [row[None, n:] for n, row in zip(padding, rows)]


@torch.no_grad()
def score(reward_model: PreTrainedModel, rows: list[torch.Tensor]) -> torch.Tensor:
    """The reward model's scores of all rows, in one pass."""
    ids = torch.nn.utils.rnn.pad_sequence(
        [row[0] for row in rows], batch_first=True, padding_value=reward_model.config.pad_token_id, padding_side="left"
    )
    lengths = torch.tensor([row.shape[1] for row in rows])
    mask = torch.arange(ids.shape[1]) >= (ids.shape[1] - lengths)[:, None]
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    return reward_model(input_ids=ids, attention_mask=mask.long(), position_ids=positions).logits[:, 0].float()


def peak_memory() -> float:
    """The most memory that this process has held, in MiB."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / 2**20 if sys.platform == "darwin" else held / 2**10


def main(
    workload: Workload,
    folder: Path,
    steps: int,
    warm_up: int,
    *,
    dtype: str,
    together: bool = False,
    top_k: int = 0,
    top_p: float = 1.0,
) -> None:
    torch.manual_seed(0)
    agent = make_agent(workload, folder, getattr(torch, dtype), top_k, top_p)
    reward_model = AutoModelForSequenceClassification.from_pretrained(
        folder / "reward", dtype=getattr(torch, dtype)
    ).eval()
    sample, count, done = sample_together if together else sample_each, workload.prompts, []
    prompts = make_prompts(workload, count * (warm_up + steps), reward_model.config.vocab_size)
    for step in range(warm_up + steps):
        batch = prompts[step * count : (step + 1) * count]
        started = time.perf_counter()
        rows = sample(agent, batch)
        sampled = time.perf_counter()
        rewards = score(reward_model, rows)
        scored = time.perf_counter()
        masks = [torch.arange(1, row.shape[1])[None] >= len(prompt) for prompt, row in zip(batch, rows)]
        results = agent.learn((rows, masks, rewards))
        ended = time.perf_counter()
        no_gradient = sum(results[phase] for phase in SCORING)
        done.append(
            {
                "sampling": sampled - started,
                "scoring": scored - sampled + no_gradient,
                "training": ended - scored - no_gradient,
                "step": ended - started,
                "peak_memory_mib": peak_memory(),
            }
        )
    print(json.dumps(done[warm_up:]))


if __name__ == "__main__":
    workload, folder, steps, warm_up, settings = read_arguments(sys.argv[1:])
    main(workload, folder, steps, warm_up, **settings)
