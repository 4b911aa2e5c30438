"""The main job: PPO on a language model, from start to finish.

uv run main.py                                   the embedded task, on any machine, with no network
uv run main.py --steps 10 --kl_coef 0.2          the same with other settings
uv run main.py --config my.yaml                  a run of your own
uv run main.py --model_name Qwen/Qwen3-0.6B-Base --prompts posts.jsonl --reward my_reward.py:score
"""

import sys

from ppo_lm.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]], prog="main.py")
