"""`ppo-lm report`: what a run learnt, in one file that needs no network."""

from ppo_lm.report.page import write_report
from ppo_lm.report.run_folder import read_run_folder
from ppo_lm.report.terminal import show_report
from ppo_lm.report.token_files import NUMBERS

__all__ = ["NUMBERS", "read_run_folder", "show_report", "write_report"]
