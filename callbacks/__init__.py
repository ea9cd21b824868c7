"""What watches a run while it goes."""

from callbacks.averaging import Averaging
from callbacks.checkpoint import Checkpoint
from callbacks.config import LogConfig
from callbacks.doctor import Doctor
from callbacks.environment import Environment
from callbacks.freeze import Freeze
from callbacks.last_checkpoint import LastCheckpoint
from callbacks.monitor import Monitor
from callbacks.monitors import CheckMonitors
from callbacks.nonfinite import OnNonFinite
from callbacks.predictions import Residuals
from callbacks.progress import Progress
from callbacks.record import Record
from callbacks.resume import Resume
from callbacks.schedule_free import ScheduleFree
from callbacks.tensorboard import TensorBoardViews

__all__ = [
    "Averaging",
    "CheckMonitors",
    "Checkpoint",
    "Doctor",
    "Environment",
    "Freeze",
    "LastCheckpoint",
    "LogConfig",
    "Monitor",
    "OnNonFinite",
    "Progress",
    "Record",
    "Residuals",
    "Resume",
    "ScheduleFree",
    "TensorBoardViews",
]
