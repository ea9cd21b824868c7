"""What a finished or interrupted run is, seen from outside."""

from runs.run import Run

__all__ = ["Run"]
