"""Short hashes that change when a value, a model or the code of a part does."""

from ppo_lm.fingerprint.sketch import sketch_distance, sketch_weights
from ppo_lm.fingerprint.source import source_of
from ppo_lm.fingerprint.values import fingerprint, fingerprint_weights

__all__ = ["fingerprint", "fingerprint_weights", "sketch_distance", "sketch_weights", "source_of"]
