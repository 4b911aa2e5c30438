"""From sampled tokens to state–action pairs, and from a sequence's score to its tokens."""

from ppo_lm.token_attribution.extractor import extract_actions
from ppo_lm.token_attribution.sa_pair_builder import build_sa_pairs
from ppo_lm.token_attribution.token_attribution import attribute_scores

__all__ = ["attribute_scores", "build_sa_pairs", "extract_actions"]
