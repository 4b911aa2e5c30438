"""A reward with a column of the data and parts of its own: answers of a given number of words, without repetition.

    ppo-lm train --prompts posts.jsonl --reward examples/own_reward.py:Measured

where each line of posts.jsonl has a `prompt` and `words`. If a number is all there is to compute, a function is enough:
`def score(prompts, completions, words): return [...]`.
"""

from __future__ import annotations

from ppo_lm.rewards import Responses, Reward, Scores


class Measured(Reward):
    """1 for `words` words, less the further away, minus the share of words that occurred before."""

    name = "measured"
    needs_columns = ("words",)

    def score(self, responses: Responses) -> Scores:
        answers = [text.lower().split() for text in responses.texts]
        wanted = responses.columns["words"]
        length = [1 - abs(len(words) - number) / number for words, number in zip(answers, wanted, strict=True)]
        repeated = [1 - len(set(words)) / len(words) if words else 0.0 for words in answers]
        totals = [one - other for one, other in zip(length, repeated, strict=True)]
        return Scores.of(totals, {"length": length, "repeated": repeated})
