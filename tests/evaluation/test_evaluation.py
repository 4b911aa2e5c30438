import pytest

from ppo_lm.data import PromptSet
from ppo_lm.evaluation import evaluate
from ppo_lm.models import PolicyModel, SFTModel
from ppo_lm.ppo_trainer import RewardComputer, SequenceGenerator
from ppo_lm.rewards import FunctionReward
from ppo_lm.rollout import SamplingSettings
from tests.conftest import make_base

pytestmark = pytest.mark.fast

PROMPTS = PromptSet(
    ["TL;DR:", "POST: I moved out", "My boss", "My sister Karen", "A"], {"weight": [1.0, 2.0, 3.0, 4.0, 5.0]}
)


def run(batch_size, base):
    generator = SequenceGenerator(PolicyModel(base, None), SFTModel(base), SamplingSettings(8, temperature=0))
    scorer = RewardComputer(lambda completions, weight: [len(c) * w for c, w in zip(completions, weight)])
    monitor = FunctionReward(lambda completions, terminated: [float(t) for t in terminated])
    return evaluate(generator, scorer, monitor, PROMPTS, batch_size)


def test_every_prompt_is_scored_once_with_its_own_columns_whatever_the_batch_size():
    base = make_base()
    whole, parts = run(5, base), run(2, base)
    assert (whole.scores, whole.monitors, whole.texts, whole.length) == (
        parts.scores,
        parts.monitors,
        parts.texts,
        parts.length,
    )
    assert whole.kl == pytest.approx(parts.kl, abs=1e-4)
    assert whole.scores == pytest.approx(
        [len(text) * weight for text, weight in zip(whole.texts, PROMPTS.columns["weight"])]
    )
    assert whole.score == pytest.approx(sum(whole.scores) / 5)
    assert whole.monitor == whole.ended
