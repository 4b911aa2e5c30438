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


class CountingReference(SFTModel):
    scored = 0

    def action_logprobs(self, sa_pairs, temperature=1.0):
        self.scored += sa_pairs.sequences
        return super().action_logprobs(sa_pairs, temperature)


def run(batch_size, base, scored=None, reference=None, **options):
    """`scored`: a list that gets the number of texts in every call of the reward."""
    settings = SamplingSettings(8, temperature=0)
    generator = SequenceGenerator(PolicyModel(base, None), reference or SFTModel(base), settings)

    def reward(completions, weight):
        if scored is not None:
            scored.append(len(completions))
        return [len(c) * w for c, w in zip(completions, weight)]

    monitor = FunctionReward(lambda completions, terminated: [float(t) for t in terminated])
    return evaluate(generator, RewardComputer(reward), monitor, PROMPTS, batch_size, **options)


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


def test_more_can_be_sampled_at_once_than_scored():
    base, sizes = make_base(), []
    both, alike = run(4, base, sizes, scored_at_once=3), run(4, base)
    assert sizes == [3, 1, 1]
    assert (both.scores, both.monitors, both.texts) == (alike.scores, alike.monitors, alike.texts)


def test_without_a_kl_the_reference_is_not_asked():
    base = make_base()
    reference = CountingReference(base)
    assert run(2, base, reference=reference, with_kl=False).kl is None
    assert reference.scored == 0
    assert run(2, base, reference=reference).kl is not None
    assert reference.scored == len(PROMPTS)
