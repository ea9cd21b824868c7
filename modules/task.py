"""What the tasks have in common: exact means over an epoch that cost next to nothing per step."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

STAGES = ("train", "val", "test")


class Task(LightningModule):
    """A LightningModule with the same metrics in training, validation and test.

    A subclass adds to `train_metrics`, `val_metrics` and `test_metrics` in its steps; each is logged once an epoch as
    `train/NAME`, `val/NAME`, `test/NAME`, exact over all samples, on one device and on many.

    Args:
        metrics: Makes the metrics of a stage (`train`, `val` or `test`), by name.
    """

    def __init__(self, metrics: Callable[[str], nn.ModuleDict]) -> None:
        super().__init__()
        for stage in STAGES:
            setattr(self, f"{stage}_metrics", metrics(stage))

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes here which hook it is in, 40 times a step, and nn.Module would look each time whether that
        # is a parameter, a module or a buffer: a fifth of a millisecond
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """What `evaluate` gives of a batch, for the callbacks that look at predictions."""
        return self.evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """As `validation_step`."""
        return self.evaluate("test", batch)

    @abstractmethod
    def evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Add a batch `(inputs, targets)` to the metrics of a stage, `val` or `test`, and give its predictions."""

    @staticmethod
    def inputs_of(batch: Any) -> Any:
        """The inputs, of themselves or of a batch `(inputs, targets)`."""
        return batch[0] if isinstance(batch, tuple | list) else batch

    def on_train_epoch_start(self) -> None:
        # from the start, and not at the end: so a callback knows after one batch what this module logs
        self._log("train")

    def on_validation_epoch_end(self) -> None:
        self._log("val")

    def on_test_epoch_end(self) -> None:
        self._log("test")

    def log_step(self, loss: Tensor) -> None:
        """Log `train/loss_step`, every `trainer.log_every_n_steps` steps."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0:
            self.log("train/loss_step", loss, sync_dist=self.trainer.world_size > 1)

    def _log(self, stage: str) -> None:
        # the metric and not its value: Lightning computes it over all devices when the epoch ends, and resets it
        for name, metric in getattr(self, f"{stage}_metrics").items():
            self.log(f"{stage}/{name}", metric, on_step=False, on_epoch=True)
