"""The settings of a run as overrides of verl's ppo_trainer.yaml."""

from __future__ import annotations

import math

from ppo_lm.config import PPOConfig
from ppo_lm.exporting.elsewhere.mapping import NEVER, Exporting, InFolder, Mapped

VERSION = "0.9.1"
TRAIN, HELD_OUT = "data/train.parquet", "data/held_out.parquet"
ESTIMATORS = {"gae": "gae", "rloo": "rloo", "group": "grpo"}
KL_IN_REWARD = {"k1": "kl", "k2": "mse", "k3": "low_var_kl"}
CONTENTS = "{% for message in messages %}{{ message.content }}{% endfor %}"  # a chat template that adds nothing
LOGGERS = ("tensorboard", "wandb", "trackio", "mlflow")
ACTOR, CRITIC = "actor_rollout_ref.actor", "critic"
MODEL, ROLLOUT = "actor_rollout_ref.model", "actor_rollout_ref.rollout"


def map_settings(exporting: Exporting) -> list[Mapped]:
    """Every setting that verl has in some form."""
    return [
        *_data(exporting),
        *_sampling(exporting),
        *_objective(exporting),
        *_optimisation(exporting),
        *_models(exporting),
        *_schedule(exporting),
    ]


def _data(exporting: Exporting) -> list[Mapped]:
    config = exporting.config
    plain = "" if exporting.chat else ("{{ bos_token }}" if exporting.adds_bos else "") + CONTENTS
    validation = HELD_OUT if exporting.held_out else TRAIN  # verl needs a file even if it never validates
    few = (
        f"verl takes whole steps only, and {exporting.prompts} prompts are fewer than a step's; give it more"
        if exporting.prompts < exporting.prompts_per_step
        else ""
    )
    return [
        Mapped(["prompts"], {"data.train_files": InFolder(TRAIN)}, few),
        Mapped(["eval_prompts"], {"data.val_files": InFolder(validation)}),
        Mapped(["prompt_column"], {f"{MODEL}.custom_chat_template": plain} if plain else {}),
        Mapped(["max_prompt_tokens"], {"data.max_prompt_length": exporting.longest}),
        Mapped(["max_new_tokens"], {"data.max_response_length": config.max_new_tokens}),
        Mapped(
            ["batch_size", "responses_per_prompt"],
            {"data.train_batch_size": exporting.prompts_per_step, f"{ROLLOUT}.n": config.responses_per_prompt},
        ),
        Mapped(
            ["seed"],
            {
                "data.seed": config.seed,
                f"{ACTOR}.data_loader_seed": config.seed,
                f"{CRITIC}.data_loader_seed": config.seed,
                f"{ROLLOUT}.seed": config.seed,
            },
        ),
    ]


def _sampling(exporting: Exporting) -> list[Mapped]:
    config = exporting.config
    cut = "verl's log-probabilities are over the whole vocabulary, not over the tokens that top_k and top_p leave"
    return [
        Mapped(["temperature"], {f"{ROLLOUT}.temperature": config.temperature}),
        Mapped(
            ["top_k", "top_p"],
            {f"{ROLLOUT}.top_k": config.top_k or -1, f"{ROLLOUT}.top_p": config.top_p},
            cut if config.top_k or config.top_p < 1 else "",
        ),
        Mapped(
            ["eval_temperature"],
            {
                f"{ROLLOUT}.val_kwargs.do_sample": config.eval_temperature > 0,
                f"{ROLLOUT}.val_kwargs.temperature": config.eval_temperature,
            },
        ),
    ]


def _objective(exporting: Exporting) -> list[Mapped]:
    config = exporting.config
    in_loss = config.kl_in == "loss"
    in_the_reward = {
        "algorithm.kl_penalty": KL_IN_REWARD[config.kl_estimator],
        "algorithm.kl_ctrl.kl_coef": config.kl_coef,
    }
    in_the_loss = {
        f"{ACTOR}.use_kl_loss": True,
        f"{ACTOR}.kl_loss_coef": config.kl_coef,
        f"{ACTOR}.kl_loss_type": f"{config.kl_estimator}+",  # with the gradient of k2, which is that of the KL
    }
    unweighted = "verl does not weight its KL loss by the probability ratio, so only the first update of a step agrees"
    high = config.clip_epsilon if config.clip_epsilon_high is None else config.clip_epsilon_high
    correction = "algorithm.rollout_correction"
    weights = {f"{correction}.rollout_is": "token", f"{correction}.rollout_is_threshold": _importance_bounds(config)}
    missing_eos = "verl scores a response that does not end like any other"
    clipped = config.reward_clip > 0 and exporting.reward_model
    aggregation = "token-mean" if config.loss_aggregation == "token_mean" else "seq-mean-token-mean"
    return [
        Mapped(["advantage_estimator"], {"algorithm.adv_estimator": ESTIMATORS[config.advantage_estimator]}),
        Mapped(["gamma", "lam"], {"algorithm.gamma": config.gamma, "algorithm.lam": config.lam}),
        Mapped(
            ["kl_in", "kl_coef", "kl_estimator"],
            {
                "algorithm.use_kl_in_reward": config.kl_coef > 0 and not in_loss,
                **(in_the_loss if in_loss else in_the_reward),
            },
            unweighted if in_loss and config.ppo_epochs * config.mini_batches > 1 else "",
        ),
        Mapped(
            ["clip_epsilon", "clip_epsilon_high"],
            {
                f"{ACTOR}.clip_ratio": config.clip_epsilon,
                f"{ACTOR}.clip_ratio_low": config.clip_epsilon,
                f"{ACTOR}.clip_ratio_high": high,
            },
        ),
        Mapped(["dual_clip"], {f"{ACTOR}.clip_ratio_c": config.dual_clip or NEVER}),
        Mapped(["value_clip"], {f"{CRITIC}.cliprange_value": config.value_clip or NEVER}),
        Mapped(
            ["loss_aggregation"],
            {f"{ACTOR}.loss_agg_mode": aggregation, f"{CRITIC}.loss_agg_mode": "token-mean"},
        ),
        Mapped(["entropy_coef"], {f"{ACTOR}.entropy_coeff": config.entropy_coef}),
        Mapped(
            ["importance_cap", "importance_mode", "importance_floor"],
            weights if config.importance_cap else {},
        ),
        Mapped(["missing_eos_score"], remark=missing_eos if config.missing_eos_score is not None else ""),
        Mapped(["reward_clip"], remark="verl does not clip what a reward model gives" if clipped else ""),
    ]


def _importance_bounds(config: PPOConfig) -> float | str:
    """A number truncates the weights; two, with "_" between them, are the bounds of those that are not masked, and the
    lower one has to be above 0."""
    if config.importance_mode == "truncate":
        return config.importance_cap
    return f"{config.importance_floor or 1 / NEVER}_{config.importance_cap}"


def _optimisation(exporting: Exporting) -> list[Mapped]:
    config = exporting.config
    schedule = "constant" if config.lr_schedule == "constant" else "cosine"
    other = f"verl has no {config.lr_schedule} schedule; cosine also ends at 0"
    adamw = {"optimizer": "AdamW", "weight_decay": 0.0, "override_optimizer_config": {"eps": config.adam_epsilon}}
    return [
        Mapped(["ppo_epochs"], {f"{ACTOR}.ppo_epochs": config.ppo_epochs}),
        Mapped(
            ["mini_batches"],
            {
                f"{ACTOR}.ppo_mini_batch_size": exporting.prompts_per_step // config.mini_batches,
                **_for_both("shuffle", True),
            },
        ),
        Mapped(["learning_rate"], {f"{ACTOR}.optim.lr": config.learning_rate}),
        Mapped(["value_learning_rate"], {f"{CRITIC}.optim.lr": config.value_learning_rate}),
        Mapped(
            ["lr_schedule"],
            _for_both("optim.lr_scheduler_type", schedule),
            "" if schedule == config.lr_schedule else other,
        ),
        Mapped(
            ["optimiser", "adam_epsilon"],
            {key: value for name, given in adamw.items() for key, value in _for_both(f"optim.{name}", given).items()},
        ),
        Mapped(["max_grad_norm"], _for_both("optim.clip_grad", config.max_grad_norm)),
        Mapped(
            ["micro_batch_tokens"],
            {
                f"{ACTOR}.use_dynamic_bsz": True,
                **_for_both(
                    "ppo_max_token_len_per_gpu", max(config.micro_batch_tokens or 16384, exporting.longest_row)
                ),
            },
        ),
    ]


def _for_both(name: str, value: object) -> dict[str, object]:
    """An option of the actor and of the critic."""
    return {f"{ACTOR}.{name}": value, f"{CRITIC}.{name}": value}


def _models(exporting: Exporting) -> list[Mapped]:
    config = exporting.config
    models = {MODEL: exporting.base} | ({f"{CRITIC}.model": InFolder("value")} if exporting.has_critic else {})
    lora = {"lora_rank": config.lora_r, "lora_alpha": exporting.lora_alpha, "target_modules": exporting.lora_targets}
    no_adapter = (
        f"verl {VERSION} cannot put an adapter on a critic, so all weights of the critic are trained, for which "
        f"value_learning_rate {config.value_learning_rate:g} may be too high"
    )
    reward = {
        "reward.reward_model.enable": True,
        "reward.reward_model.model_path": InFolder("reward"),
        "reward.reward_model.rollout.name": "vllm",
        "reward.reward_model.rollout.tensor_model_parallel_size": 1,
        "reward.reward_model.rollout.prompt_length": exporting.longest_row,
        "reward.reward_model.rollout.response_length": 1,
    }
    function = {"reward.custom_reward_function.path": InFolder("reward.py")}
    return [
        Mapped(["model_name", "value_model"], {f"{model}.path": path for model, path in models.items()}),
        Mapped(
            ["lora_r", "lora_alpha", "lora_targets"],
            {
                **{f"{MODEL}.{name}": value for name, value in lora.items()},
                f"{ROLLOUT}.load_format": "safetensors" if config.lora_r else "dummy",
            },
            no_adapter if config.lora_r and exporting.has_critic else "",
        ),
        Mapped(
            ["gradient_checkpointing"],
            {f"{model}.enable_gradient_checkpointing": config.gradient_checkpointing for model in models},
        ),
        Mapped(["reward"], reward if exporting.reward_model else function),
        Mapped(["engine"], {f"{ROLLOUT}.name": "vllm", f"{ROLLOUT}.tensor_model_parallel_size": 1}),
    ]


def _schedule(exporting: Exporting) -> list[Mapped]:
    config = exporting.config
    never, epochs = -1, math.ceil(config.steps / exporting.steps_of_a_round(math.floor))
    loggers = [name for name in config.recorders or [] if name in LOGGERS]
    return [
        Mapped(
            ["steps"],
            {"trainer.total_training_steps": config.steps, "trainer.total_epochs": epochs},
        ),
        Mapped(
            ["value_warmup_steps"],  # verl trains the actor from step number critic_warmup on, counted from 1
            {"trainer.critic_warmup": config.value_warmup_steps + 1 if config.value_warmup_steps else 0},
        ),
        Mapped(
            ["eval_every"],
            {
                "trainer.test_freq": (config.eval_every or config.steps) if exporting.held_out else never,
                "trainer.val_before_train": exporting.held_out > 0,
            },
        ),
        Mapped(["save_every"], {"trainer.save_freq": config.save_every or config.steps}),
        Mapped(
            ["keep_checkpoints"],
            {
                "trainer.max_actor_ckpt_to_keep": config.keep_checkpoints,
                "trainer.max_critic_ckpt_to_keep": config.keep_checkpoints,
            },
        ),
        Mapped(["recorders"], {"trainer.logger": ["console", *loggers], "trainer.project_name": "ppo_lm"}),
    ]
