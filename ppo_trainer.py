from ppo_lm.errors import show_user_errors_as_one_sentence

show_user_errors_as_one_sentence()
from ppo_lm.ppo_trainer import PPOTrainer  # noqa: E402, F401
