"""What watches a run while it goes."""

from callbacks.checkpoint import LastCheckpoint
from callbacks.config import SaveConfig
from callbacks.monitors import CheckMonitors
from callbacks.progress import Progress
from callbacks.record import Record
from callbacks.tensorboard import TensorBoardViews

__all__ = ["CheckMonitors", "LastCheckpoint", "Progress", "Record", "SaveConfig", "TensorBoardViews"]
