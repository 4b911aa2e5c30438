import torch

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.base_setup import EMBEDDED_MODEL, load_base
from ppo_lm.embedded import build
from ppo_lm.embedded.posts import generate_posts
from ppo_lm.models import RewardModel
from ppo_lm.reward_modeling import preference_accuracy


def test_one_call_builds_a_model_that_ppo_runs_on(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SFT_POSTS", 64)
    monkeypatch.setattr(build, "SFT_EPOCHS", 1)
    monkeypatch.setattr(build, "REWARD_POSTS", 64)
    monkeypatch.setattr(build, "TEST_POSTS", 50)
    results = build.build_embedded(tmp_path)
    assert set(results) == {"sft_test_loss", "reward_test_accuracy"}
    config = PPOConfig(model_name=str(tmp_path), reward=str(tmp_path / "reward"), max_new_tokens=20)
    step = PPOTrainer(config).ppo_step([post.prompt for post in generate_posts(4, seed=9)])
    assert len(step["rewards"]) == 4


def test_the_shipped_model_is_small_and_its_reward_model_agrees_with_readers():
    size = sum(file.stat().st_size for file in EMBEDDED_MODEL.rglob("*") if file.is_file())
    assert size <= 15e6
    base = load_base("embedded", "float32", "cpu")
    assert 1e6 < sum(p.numel() for p in base.network.parameters()) < 1e7
    reward = RewardModel.load(base, EMBEDDED_MODEL / "reward")
    with torch.no_grad():
        assert preference_accuracy(reward, build._comparisons(base, generate_posts(200, seed=77), seed=77)) >= 0.85
