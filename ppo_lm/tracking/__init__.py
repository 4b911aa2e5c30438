"""What a run reports and who listens: events, recorders, health checks, time and memory."""

from ppo_lm.tracking.early_stopping import EarlyStopping, early_stopping
from ppo_lm.tracking.events import (
    Answer,
    CheckpointSaved,
    Column,
    EvaluationDone,
    RunFinish,
    RunStart,
    SamplesDrawn,
    StepDone,
    StepSkipped,
    TokensSeen,
)
from ppo_lm.tracking.files import MetricsFile, SamplesFile, TokensFiles, write_tensors
from ppo_lm.tracking.floor import Floor, Passes, measure_machine
from ppo_lm.tracking.mlflow import MLflow
from ppo_lm.tracking.phases import PhaseClock, peak_memory
from ppo_lm.tracking.picture import Picture, write_picture
from ppo_lm.tracking.recorder import RECORDERS, Recorder, add_recorders, find_recorders
from ppo_lm.tracking.screen import Screen
from ppo_lm.tracking.tensorboard import TensorBoard
from ppo_lm.tracking.tracker import Tracker
from ppo_lm.tracking.trackio import Trackio
from ppo_lm.tracking.wandb import WandB

__all__ = [
    "RECORDERS",
    "Answer",
    "CheckpointSaved",
    "Column",
    "EarlyStopping",
    "EvaluationDone",
    "Floor",
    "MLflow",
    "MetricsFile",
    "Passes",
    "PhaseClock",
    "Picture",
    "Recorder",
    "RunFinish",
    "RunStart",
    "SamplesDrawn",
    "SamplesFile",
    "Screen",
    "StepDone",
    "StepSkipped",
    "TensorBoard",
    "TokensFiles",
    "TokensSeen",
    "Tracker",
    "Trackio",
    "WandB",
    "add_recorders",
    "early_stopping",
    "find_recorders",
    "measure_machine",
    "peak_memory",
    "write_picture",
    "write_tensors",
]
