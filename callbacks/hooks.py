"""Sparing Lightning the work that nobody asked for, in every step."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.profilers import PassThroughProfiler

BATCH_HOOKS = (
    *("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad"),
    *(f"on_{stage}_batch_{when}" for stage in ("train", "validation", "test", "predict") for when in ("start", "end")),
)


class NoProfiler(PassThroughProfiler):
    """Lightning's, without making a new context manager some fifty times a step."""

    nothing: ClassVar = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self.nothing


def skip_empty_hooks(callbacks: Sequence[Callback]) -> None:
    """Spare Lightning the hooks of every batch that a callback does not have.

    It calls each of them, empty ones too, and each call looks up a name, sets an attribute and starts a timer: with
    ten callbacks that is a quarter of a millisecond a step. What is not callable it passes over.
    """
    for callback in callbacks:
        for hook in BATCH_HOOKS:
            if getattr(type(callback), hook) is getattr(Callback, hook):
                setattr(callback, hook, None)
        if (
            isinstance(callback, ModelCheckpoint)
            and callback._every_n_train_steps == 0
            and not callback._train_time_interval
        ):
            # it saves by epochs only, and has nothing to do after a batch
            callback.on_train_batch_end = None  # type: ignore[method-assign, assignment]
