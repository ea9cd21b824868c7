"""What watches a run while it goes."""

from callbacks.monitors import CheckMonitors
from callbacks.progress import Progress
from callbacks.record import Record
from callbacks.tensorboard import TensorBoardViews

__all__ = ["CheckMonitors", "Progress", "Record", "TensorBoardViews"]
