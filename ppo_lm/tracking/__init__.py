"""The record of a run."""

from ppo_lm.tracking.phases import PhaseClock, peak_memory
from ppo_lm.tracking.run_folder import append_record, check_output_dir, make_run_folder, write_config
from ppo_lm.tracking.run_log import RunLog
from ppo_lm.tracking.stage_log import StageLog

__all__ = ["PhaseClock", "RunLog", "StageLog", "append_record", "check_output_dir", "make_run_folder", "peak_memory", "write_config"]
