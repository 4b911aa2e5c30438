"""One run for every stage: folder, lock, signals, checkpoints, recorders."""

from ppo_lm.run.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from ppo_lm.run.few_updates import few_updates
from ppo_lm.run.find_models import RunModel, find_policy, find_reward, find_value, is_run_folder
from ppo_lm.run.folder import (
    check_output_dir,
    check_writable,
    lock_run_folder,
    make_run_folder,
    write_config,
)
from ppo_lm.run.run import Run
from ppo_lm.run.save_models import gathered_to_save, save_adapter, save_best, save_models, save_value, save_whole_value
from ppo_lm.run.stateful import GlobalRandom, RandomStream, Stateful, Weights
from ppo_lm.run.trained_prompts import Lineage, TrainingPrompts, count_seen, run_of, trace

__all__ = [
    "Checkpoint",
    "GlobalRandom",
    "Lineage",
    "RandomStream",
    "Run",
    "RunModel",
    "Stateful",
    "TrainingPrompts",
    "Weights",
    "check_output_dir",
    "check_writable",
    "count_seen",
    "few_updates",
    "find_policy",
    "find_reward",
    "find_value",
    "gathered_to_save",
    "is_run_folder",
    "list_checkpoints",
    "load_checkpoint",
    "lock_run_folder",
    "make_run_folder",
    "run_of",
    "save_adapter",
    "save_best",
    "save_checkpoint",
    "save_models",
    "save_value",
    "save_whole_value",
    "trace",
    "write_config",
]
