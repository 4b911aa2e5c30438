"""The record of a run."""

from ppo_lm.tracking.doctor import examine
from ppo_lm.tracking.floor import Floor, Passes, measure_machine
from ppo_lm.tracking.phases import PhaseClock, peak_memory
from ppo_lm.tracking.run_folder import append_record, check_output_dir, lock_run_folder, make_run_folder, write_config
from ppo_lm.tracking.run_log import RunLog
from ppo_lm.tracking.stage_log import StageLog

__all__ = [
    "Floor",
    "Passes",
    "PhaseClock",
    "RunLog",
    "StageLog",
    "append_record",
    "check_output_dir",
    "examine",
    "lock_run_folder",
    "make_run_folder",
    "measure_machine",
    "peak_memory",
    "write_config",
]
