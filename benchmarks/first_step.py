"""For `startup.py`: ends the process when the first training step is done."""

import os
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class LeaveAfterFirstStep(Callback):
    """Leaves at once, so that what comes after the first step does not count."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        os._exit(0)
