"""Folders of runs, written as a run writes them."""

import json

import pytest
import torch

from ppo_lm import PPOConfig
from ppo_lm.run.folder import write_config
from ppo_lm.tracking import EvaluationDone, MetricsFile, RunStart, SamplesDrawn, SamplesFile, StepDone, TokensFiles
from ppo_lm.tracking.events import TokensSeen
from tests.conftest import make_pairs

HOSTILE = "</script><script>document.title = 'broken'</script><b>bold</b> \x1b[31mred\u202e reversed & \ud800 end"


def tokens_seen(step, texts, rows=3, width=7, seed=0, holes=True, kl_coef=0.5):
    """A record of `rows` responses whose rewards are their scores minus the KL cost."""
    pairs = make_pairs(rows=rows, actions=width, vocabulary=50, dtype=torch.float32, seed=seed, holes=holes)
    mask = pairs.action_mask
    last = mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))
    rewards = torch.where(last, pairs.scores[:, None], 0.0) - kl_coef * pairs.kl * mask
    pairs = pairs.with_columns(rewards=rewards)
    ids = torch.arange(rows * width * 5).view(rows, width, 5) % 50
    logprobs = torch.randn(ids.shape, generator=torch.Generator().manual_seed(seed)).log_softmax(dim=2)
    tensors = pairs.columns() | {"ratios": torch.rand(rows, width, generator=torch.Generator().manual_seed(seed)) + 0.5}
    for name in ("policy", "reference"):
        tensors |= {f"{name}_choices": ids, f"{name}_choice_logprobs": logprobs}
    return TokensSeen(
        step=step,
        kl_coef=kl_coef,
        tensors=tensors,
        prompts=[f"prompt {row} {texts}" for row in range(rows)],
        prompt_columns=[{"topic": texts} for _ in range(rows)],
        completions=[f"completion {row} of step {step} {texts}" for row in range(rows)],
        parts={"good": [0.5] * rows},
        pieces=[[f" {texts}{place}" for place in range(length)] for length in pairs.attention_mask.sum(dim=1).tolist()],
        vocabulary={token: f" {texts}{token}" for token in range(50)},
    )


def make_run(folder, steps=40, every=10, texts="word", **record):
    """A run of `steps` steps, with everything a report can show."""
    folder.mkdir(parents=True)
    config = PPOConfig(model_name="embedded", prompts="embedded", steps=steps, kl_coef=0.5, output_dir=str(folder))
    write_config(folder, config)
    recorders = [MetricsFile(), SamplesFile(), TokensFiles()]
    for recorder in recorders:
        recorder.start(RunStart("a run", config, folder, steps))
    metrics, samples, tokens = recorders
    for step in range(steps + 1):
        if step in (0, steps):
            drawn = SamplesDrawn(step, [f"held out {texts}", "another"], [f"answer {step} {texts}", "b"], [0.5, 1], {})
            event = EvaluationDone(step, 2, {"sampled": {"score": step / steps}}, {"sampled": drawn})
            metrics.evaluation(event)
            samples.evaluation(event)
        if step:
            numbers = {
                "score": step / steps,
                "kl": 1.0,
                "entropy": 2.0,
                "score_std": 0.5,
                "length": 5.0,
                "ended": 1.0,
                "empty": 0.0,
            }
            numbers |= {"reward/good": 0.1 * step, "explained_variance": 0.3, "clip_fraction": 0.0, "policy_loss": 0.0}
            numbers |= {"sampler_gap": 0.0, "policy_grad_norm": 1.0, "value_grad_norm": 1.0, "own_metric": 3.0}
            metrics.step(StepDone(step, steps, numbers))
        if step and step % every == 0:
            tokens.tokens(tokens_seen(step, texts, seed=step, **record))
    return folder


@pytest.fixture
def run_folder(tmp_path):
    return make_run(tmp_path / "run")


def data_of(page):
    """What the page's programs read."""
    start = page.index('id="data">') + len('id="data">')
    return json.loads(page[start : page.index("</script>", start)])
