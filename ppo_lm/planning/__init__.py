"""What a run will take before it is started: memory, time, and how to lay it out over devices."""

from ppo_lm.planning.choice import Choice, choose
from ppo_lm.planning.command import command_for
from ppo_lm.planning.hardware import Hardware, find_hardware
from ppo_lm.planning.job import Job
from ppo_lm.planning.layout import Layout
from ppo_lm.planning.plan import Plan, plan_for, read_job

__all__ = [
    "Choice",
    "Hardware",
    "Job",
    "Layout",
    "Plan",
    "choose",
    "command_for",
    "find_hardware",
    "plan_for",
    "read_job",
]
