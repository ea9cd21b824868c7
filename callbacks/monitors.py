"""Finds a monitored metric that nobody logs before the first epoch, and not after it."""

import difflib
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint


class CheckMonitors(Callback):
    """Compares what EarlyStopping, ModelCheckpoint and the schedule monitor with what is logged.

    What validation logs is known after Lightning's sanity check, what a training step logs after the first
    batch. A name that begins with `train` may come at the end of the first epoch, and is left to Lightning.

    Args:
        default: The metric that the project monitors when nothing else is said. A module that does not log it
            (one from another package, say) is trained without the callbacks that want it; any other name that
            nobody logs is a mistake.
    """

    def __init__(self, default: str = "val/loss") -> None:
        self.default = default

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # "val…" can only be logged in validation, which has just run
        self._check(trainer, set(trainer.callback_metrics), lambda name: name.startswith("val"))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > 1 or batch_idx > 0:
            return
        logged = {item.meta.name for item in (trainer._results or {}).values()} | set(trainer.callback_metrics)
        if trainer.num_sanity_val_steps and trainer.enable_validation:
            self._check(trainer, logged | self._validated, lambda name: not name.startswith("train"))
        elif not trainer.enable_validation:
            self._check(trainer, logged, lambda name: name.startswith("val"))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._validated: set[str] = set()

    def _check(self, trainer: Trainer, logged: set[str], certain: Any) -> None:
        self._validated |= logged
        for key, owner in _monitors(trainer):
            name = owner["monitor"] if isinstance(owner, dict) else owner.monitor
            if name in logged or not certain(name):
                continue
            if name == self.default and isinstance(owner, Callback):
                trainer.callbacks.remove(owner)  # type: ignore[attr-defined]
                continue
            close = difflib.get_close_matches(name, logged, n=1, cutoff=0.5)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ValueError(
                f"{key}.monitor: nobody logs '{name}'; logged are {', '.join(sorted(logged)) or 'no metrics'}{hint}"
            )


def _monitors(trainer: Trainer) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for callback in list(trainer.callbacks):  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping):
            found.append(("early_stopping", callback))
        elif isinstance(callback, ModelCheckpoint) and callback.monitor is not None:
            found.append(("checkpoint", callback))
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau:
            found.append(("lr_scheduler", {"monitor": config.monitor}))
    return found
