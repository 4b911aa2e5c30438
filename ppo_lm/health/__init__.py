"""Is a run healthy? Known failure modes, found in its metrics. Imports no torch: `ppo-lm doctor` answers at once."""

from ppo_lm.health.checks import Finding, HealthWatch, check_health
from ppo_lm.health.doctor import examine

__all__ = ["Finding", "HealthWatch", "check_health", "examine"]
