"""The settings of a run as options of OpenRLHF's train_ppo_ray."""

from __future__ import annotations

import math

from ppo_lm.exporting.elsewhere.mapping import ALL_LINEAR, HEAD, NEVER, Exporting, InFolder, Mapped

TRAIN, HELD_OUT = "data/train.jsonl", "data/held_out.jsonl"
ESTIMATORS = {"gae": "gae", "rloo": "rloo", "group": "group_norm"}
ADAM_BETAS = [0.9, 0.999]  # torch's defaults, which ppo_lm keeps; OpenRLHF has others
BOTH = ("actor", "critic")


def map_settings(exporting: Exporting) -> list[Mapped]:
    """Every setting that OpenRLHF has in some form."""
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
    columns: dict[str, object] = {"data.input_key": "prompt", "data.label_key": "label"}
    if exporting.chat:
        columns["data.apply_chat_template"] = True
    wanted, steps_of_a_round = config.steps * exporting.prompts_per_step, exporting.steps_of_a_round(math.ceil)
    episodes = math.ceil(config.steps / steps_of_a_round)
    few = {"data.max_samples": wanted} if wanted < exporting.prompts else {}
    made = config.steps if few else episodes * steps_of_a_round
    longer = f"OpenRLHF reads the prompts in whole rounds, so it makes {made} steps rather than {config.steps}"
    evaluates = exporting.held_out and not exporting.reward_model
    evaluation: dict[str, object] = {
        "eval.dataset": InFolder(HELD_OUT),
        "eval.steps": config.eval_every or config.steps,
        "eval.temperature": config.eval_temperature,
        "eval.n_samples_per_prompt": 1,
    }
    cannot = "OpenRLHF evaluates only with a reward function, not with a reward model"
    return [
        Mapped(["prompts"], {"data.prompt_dataset": InFolder(TRAIN)}),
        Mapped(["prompt_column"], columns),
        Mapped(["max_prompt_tokens"], {"data.max_len": exporting.longest_row}),
        Mapped(["max_new_tokens"], {"rollout.max_new_tokens": config.max_new_tokens}),
        Mapped(
            ["batch_size", "responses_per_prompt"],
            {
                "rollout.batch_size": exporting.prompts_per_step,
                "rollout.n_samples_per_prompt": config.responses_per_prompt,
            },
        ),
        Mapped(
            ["steps"],
            {"train.num_episodes": episodes, **few},
            longer if made != config.steps else "",
        ),
        Mapped(
            ["eval_prompts", "eval_every", "eval_temperature"],
            evaluation if evaluates else {},
            cannot if exporting.held_out and not evaluates else "",
        ),
        Mapped(["seed"], {"train.seed": config.seed}),
    ]


def _sampling(exporting: Exporting) -> list[Mapped]:
    config = exporting.config
    no_top_k = "OpenRLHF has no top_k" if config.top_k else ""
    cut = "OpenRLHF's log-probabilities are over the whole vocabulary, not over the tokens that top_p leaves"
    return [
        Mapped(["temperature"], {"rollout.temperature": config.temperature}),
        Mapped(["top_k"], remark=no_top_k),
        Mapped(["top_p"], {"rollout.top_p": config.top_p}, cut if config.top_p < 1 else ""),
    ]


def _objective(exporting: Exporting) -> list[Mapped]:
    config = exporting.config
    in_loss, grouped = config.kl_in == "loss", config.advantage_estimator != "gae"
    kl = {"algo.kl.init_coef": config.kl_coef, "algo.kl.estimator": config.kl_estimator}
    apart = "OpenRLHF compares the responses to a prompt by their scores, and subtracts the KL penalty afterwards"
    high = config.clip_epsilon if config.clip_epsilon_high is None else config.clip_epsilon_high
    prefix = "algo.advantage.is_correction"
    weights = {
        f"{prefix}_level": "token",
        f"{prefix}_mode": "clip" if config.importance_mode == "truncate" else "mask",
        f"{prefix}_gating": "ratio",
        f"{prefix}_threshold": [config.importance_floor, config.importance_cap],
    }
    limit = config.reward_clip if config.reward_clip and exporting.reward_model else NEVER
    missing, has_place = config.missing_eos_score, (config.missing_eos_score or 0) <= 0
    no_place = "OpenRLHF cannot give a positive score to responses that do not end"
    aggregation = "token-mean" if config.loss_aggregation == "token_mean" else "seq-mean-token-mean"
    return [
        Mapped(
            ["advantage_estimator"],
            {"algo.advantage.estimator": ESTIMATORS[config.advantage_estimator]},
            apart if grouped and config.kl_coef and not in_loss else "",
        ),
        Mapped(["gamma", "lam"], {"algo.advantage.gamma": config.gamma, "algo.advantage.lambd": config.lam}),
        Mapped(
            ["kl_in", "kl_coef", "kl_estimator"],
            {**kl, "algo.kl.use_loss": True, "algo.kl.unbiased_gradient": True} if in_loss else kl,
        ),
        Mapped(["clip_epsilon", "clip_epsilon_high"], {"actor.eps_clip_low_high": [config.clip_epsilon, high]}),
        Mapped(["dual_clip"], {"actor.dual_clip": config.dual_clip} if config.dual_clip else {}),
        Mapped(["value_clip"], {"critic.value_clip": config.value_clip or NEVER}),
        Mapped(["loss_aggregation"], {"actor.loss_agg_mode": aggregation}),
        Mapped(["entropy_coef"], {"actor.entropy_coef": config.entropy_coef} if config.entropy_coef else {}),
        Mapped(
            ["importance_cap", "importance_mode", "importance_floor"],
            weights if config.importance_cap else {},
        ),
        Mapped(
            ["missing_eos_score"],
            {"reward.stop_properly_penalty_coef": missing} if missing is not None and has_place else {},
            "" if has_place else no_place,
        ),
        Mapped(["reward_clip"], {"reward.clip_range": [-limit, limit]}),
    ]


def _optimisation(exporting: Exporting) -> list[Mapped]:
    config = exporting.config
    schedule = config.lr_schedule if config.lr_schedule in ("linear", "cosine", "constant") else "linear"
    other = f"OpenRLHF has no {config.lr_schedule} schedule; linear also ends at 0"
    adam = {"betas": ADAM_BETAS, "eps": config.adam_epsilon, "weight_decay": 0.0}
    return [
        Mapped(["ppo_epochs"], {"train.max_epochs": config.ppo_epochs}),
        Mapped(["mini_batches"], {"train.batch_size": config.batch_size // config.mini_batches}),
        Mapped(["learning_rate"], {"actor.adam.lr": config.learning_rate}),
        Mapped(["value_learning_rate"], {"critic.adam.lr": config.value_learning_rate}),
        Mapped(
            ["lr_schedule"],
            {**_for_both("lr_scheduler", schedule), **_for_both("lr_warmup_ratio", 0.0)},
            "" if schedule == config.lr_schedule else other,
        ),
        Mapped(
            ["optimiser", "adam_epsilon"],
            {key: value for name, given in adam.items() for key, value in _for_both(f"adam.{name}", given).items()},
        ),
        Mapped(["max_grad_norm"], _for_both("max_norm", config.max_grad_norm)),
        Mapped(
            ["micro_batch_tokens"],
            {
                "train.dynamic_batch_enable": True,
                "ds.packing_samples": True,
                "train.max_tokens_per_gpu": max(config.micro_batch_tokens or 16384, exporting.longest_row),
            },
        ),
    ]


def _for_both(name: str, value: object) -> dict[str, object]:
    """An option of the actor and of the critic."""
    return {f"{model}.{name}": value for model in BOTH}


def _models(exporting: Exporting) -> list[Mapped]:
    config = exporting.config
    lora: dict[str, object] = {"ds.lora.rank": config.lora_r, "ds.lora.alpha": exporting.lora_alpha}
    if exporting.lora_targets != ALL_LINEAR:  # OpenRLHF's default, which it takes from no command line
        lora["ds.lora.target_modules"] = [*exporting.lora_targets, HEAD]  # a critic's head is trained in no other way
    only_adapted = "OpenRLHF trains the critic's head only through an adapter on it"
    critic = {"critic.model_name_or_path": InFolder("value"), "critic.save_value_network": True}
    reward = {"reward.model_name_or_path": InFolder("reward")}
    function = {"reward.remote_url": InFolder("reward.py")}
    return [
        Mapped(["model_name"], {"actor.model_name_or_path": exporting.base}),
        Mapped(["value_model"], critic if exporting.has_critic else {}),
        Mapped(
            ["lora_r", "lora_alpha", "lora_targets"],
            lora if config.lora_r else {},
            only_adapted if config.lora_r and exporting.has_critic else "",
        ),
        Mapped(["dtype"], {"ds.param_dtype": "bf16"}),
        Mapped(
            ["gradient_checkpointing"],
            {"actor.gradient_checkpointing_enable": True} if config.gradient_checkpointing else {},
        ),
        Mapped(["reward"], reward if exporting.reward_model else function),
        Mapped(
            ["engine"],
            {
                "vllm.tensor_parallel_size": 1,
                "vllm.gpu_memory_utilization": 0.5,
                "vllm.enable_sleep": True,
                "ds.enable_sleep": True,
                "train.colocate_all": True,
            },
        ),
    ]


def _schedule(exporting: Exporting) -> list[Mapped]:
    config = exporting.config
    warmup = config.value_warmup_steps
    return [
        Mapped(  # the actor is trained in steps above freezing_steps, counted from 0
            ["value_warmup_steps"], {"critic.freezing_steps": warmup - 1} if warmup else {}
        ),
        Mapped(
            ["save_every"],
            {"ckpt.save_steps": config.save_every or config.steps, "ckpt.path": InFolder("checkpoints")},
        ),
        Mapped(["save_merged"], {"ckpt.output_dir": InFolder("trained")}),
        Mapped(["keep_checkpoints"], {"ckpt.max_num": config.keep_checkpoints}),
    ]
