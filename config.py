from ppo_lm.config import PPOConfig  # noqa: F401
from ppo_lm.errors import show_user_errors_as_one_sentence

show_user_errors_as_one_sentence()
