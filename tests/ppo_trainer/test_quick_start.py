import re
import subprocess
import sys


def test_the_quick_start_of_the_readme_runs_word_for_word(checkout, online_environment):
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    code = next(
        block
        for block in re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
        if "from config import PPOConfig" in block
    )
    lines = [
        "from config import PPOConfig",
        "from ppo_trainer import PPOTrainer",
        "config = PPOConfig()",
        "trainer = PPOTrainer(config)",
        "results = trainer.ppo_step(prompts)",
        """print(f"Generated texts: {results['generated_texts']}")""",
        """print(f"Rewards: {results['rewards']}")""",
        """print(f"Value loss: {results['value_loss']:.4f}")""",
        """print(f"Policy loss: {results['policy_loss']:.4f}")""",
    ]
    assert [line for line in code.splitlines() if line in lines] == lines
    code = "\n".join(lines).replace("PPOConfig()", 'PPOConfig(model_name="embedded")')
    prompts = [
        "SUBREDDIT: r/advice TITLE: My boss Kim [40F] and I [23M] have a problem POST: Last week she lied. "
        "What would you do? TL;DR:"
    ] * 3
    done = subprocess.run(
        [sys.executable, "-c", f"prompts = {prompts!r}\n{code}"],
        cwd=checkout,
        env=online_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    texts, rewards, value_loss, policy_loss = (line.partition(": ")[2] for line in done.stdout.splitlines()[-4:])
    assert len(eval(texts)) == len(eval(rewards)) == 3
    assert all(isinstance(text, str) and text for text in eval(texts))
    assert float(value_loss) > 0
    assert abs(float(policy_loss)) < 1
