from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.base_setup import EMBEDDED_MODEL, load_base
from ppo_lm.cli.build_embedded import build_embedded
from ppo_lm.data import loading
from ppo_lm.data.encoding import encode_completion, encode_prompt
from ppo_lm.embedded import grammar
from ppo_lm.embedded.posts import generate_posts
from ppo_lm.embedded.summaries import Draft
from ppo_lm.models import RewardModel
from ppo_lm.reward_modeling import score_all


def test_one_call_builds_a_model_that_ppo_runs_on(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "EMBEDDED_DEMONSTRATIONS", 200)
    monkeypatch.setattr(loading, "EMBEDDED_PREFERENCES", 200)
    results = build_embedded(tmp_path, held_out=20, rouge_samples=2, max_steps=3, max_new_tokens=10)
    assert {
        "loss_before",
        "loss_after",
        "rougeL_after",
        "accuracy",
        "calibration_error",
        "explained_variance_after",
    } <= set(results)
    assert results["loss_after"] < results["loss_before"]
    config = PPOConfig(
        model_name=str(tmp_path),
        reward=str(tmp_path / "reward"),
        value_model=str(tmp_path / "value"),
        max_new_tokens=20,
    )
    step = PPOTrainer(config).ppo_step([post.prompt for post in generate_posts(4, seed=9)])
    assert len(step["rewards"]) == 4


def test_the_shipped_model_is_small():
    size = sum(file.stat().st_size for file in EMBEDDED_MODEL.rglob("*") if file.is_file())
    assert size <= 15e6
    base = load_base("embedded", "float32", "cpu")
    assert 1e6 < sum(p.numel() for p in base.network.parameters()) < 1e7


def sequences(base, posts, draft):
    return [
        encode_prompt(base.tokenizer, post.prompt) + encode_completion(base.tokenizer, draft(post).write().text, 1)
        for post in posts
    ]


FLAWS = {
    "missing question": dict(left_out=frozenset(["question"])),
    "missing reaction": dict(left_out=frozenset(["reaction"])),
    "missing time": dict(left_out=frozenset(["when"])),
    "rambling": dict(fillers=((1, grammar.FILLER[0]),)),
    "no ending": dict(stops_after=14),
}


def test_the_shipped_reward_model_ranks_flawed_summaries_lower_on_unseen_posts():
    base = load_base("embedded", "float32", "cpu")
    reward, posts = RewardModel.load(base, EMBEDDED_MODEL / "reward"), generate_posts(100, seed=77)
    perfect = score_all(reward, sequences(base, posts, lambda post: Draft(post.facts)))
    for name, flaw in FLAWS.items():
        flawed = score_all(reward, sequences(base, posts, lambda post, flaw=flaw: Draft(post.facts, **flaw)))
        assert (perfect > flawed).float().mean() >= 0.9, name
