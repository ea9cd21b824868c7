"""matplotlib and the graph, which take longer than most trainings in tests."""

from collections.abc import Callable
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from callbacks import tensorboard
from runs import report


def go_without(replace: Callable[[Any, str, Any], None]) -> None:
    """Let nothing be drawn; `replace` is `setattr`, or `monkeypatch.setattr`."""
    replace(report, "draw", lambda *args: None)
    for name in ("_add_graph", "draw_confusion", "draw_mistakes"):
        replace(tensorboard, name, lambda *args: None)
    replace(SummaryWriter, "add_figure", lambda *args: None)
