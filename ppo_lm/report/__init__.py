"""`ppo-lm report`: what a run learnt, in one file that needs no network."""

from ppo_lm.report.page import write_report
from ppo_lm.report.run_folder import read_run_folder
from ppo_lm.report.terminal import show_report

__all__ = ["read_run_folder", "show_report", "write_report"]
