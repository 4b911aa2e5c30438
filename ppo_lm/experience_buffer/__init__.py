"""The experience of one step, in batches."""

from ppo_lm.experience_buffer.buffer import ExperienceBuffer, compute_in_micro_batches, micro_batches, trim_padding

__all__ = ["ExperienceBuffer", "compute_in_micro_batches", "micro_batches", "trim_padding"]
