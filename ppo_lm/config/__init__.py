"""The configuration of each command. Does not import torch."""

from ppo_lm.config.collect_config import CollectConfig
from ppo_lm.config.doctor_config import DoctorConfig
from ppo_lm.config.evaluate_config import EvaluateConfig
from ppo_lm.config.export_config import ExportConfig
from ppo_lm.config.generate_config import GenerateConfig
from ppo_lm.config.plan_config import PlanConfig
from ppo_lm.config.ppo_config import PPOConfig
from ppo_lm.config.report_config import ReportConfig
from ppo_lm.config.reward_config import RewardConfig
from ppo_lm.config.sft_config import SFTConfig
from ppo_lm.config.value_config import ValueConfig

__all__ = [
    "CollectConfig",
    "DoctorConfig",
    "EvaluateConfig",
    "ExportConfig",
    "GenerateConfig",
    "PPOConfig",
    "PlanConfig",
    "ReportConfig",
    "RewardConfig",
    "SFTConfig",
    "ValueConfig",
]
