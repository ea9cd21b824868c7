"""Finds a monitored metric that nobody logs before the first epoch, and not after it."""

import difflib
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.utilities.model_helpers import is_overridden


class CheckMonitors(Callback):
    """Compares what EarlyStopping, ModelCheckpoint and the schedule monitor with what is logged.

    What validation logs is known after Lightning's sanity check, what training logs after the first batch; but
    where the module or a callback has something to do at the end of an epoch, only then.

    Args:
        default: The metric that the project monitors when nothing else is said. A module that does not log it
            (one from another package, say) is trained without the callbacks that want it; any other name that
            nobody logs is a mistake.
    """

    def __init__(self, default: str = "val/loss") -> None:
        self.default = default
        self._logged: set[str] = set()
        self._dropped: set[str] = set()
        self._first_epoch: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"logged": sorted(self._logged), "dropped": sorted(self._dropped), "first_epoch": self._first_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._logged, self._dropped = set(state_dict["logged"]), set(state_dict["dropped"])
        self._first_epoch = state_dict["first_epoch"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._first_epoch is None:
            self._first_epoch = trainer.current_epoch
        # what a run that goes on has found out before
        for _, name, callback in _monitors(trainer):
            if name in self._dropped and callback is not None:
                self._drop(trainer, name, callback)

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._logged |= set(trainer.callback_metrics)
        # "val…" can only be logged in validation, which has just run
        self._check(trainer, lambda name: name.startswith("val"))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > 1 or batch_idx > 0:
            return
        results: Any = trainer._results or {}
        self._logged |= {item.meta.name for item in results.values()} | set(trainer.callback_metrics)
        if trainer.num_sanity_val_steps or not trainer.enable_validation:  # type: ignore[attr-defined]
            more_to_come = _logs_at_epoch_end(trainer, pl_module)
            self._check(trainer, lambda name: name.startswith("val") or not more_to_come)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (
            self._first_epoch is not None and trainer.current_epoch == self._first_epoch + 1
        ):  # all that an epoch logs is there now
            self._logged |= set(trainer.callback_metrics)
            self._check(trainer, lambda name: trainer.check_val_every_n_epoch == 1)

    def _check(self, trainer: Trainer, certain: Callable[[str], bool]) -> None:
        told: list[str] = []
        for key, name, callback in _monitors(trainer):
            if name in self._logged or not certain(name):
                continue
            logged = ", ".join(sorted(self._logged)) or "no metrics"
            if name == self.default and callback is not None:
                self._drop(trainer, name, callback)
                told.append(f"{key}.monitor")
                continue
            similar = self._similar(name)
            hint = f"; did you mean '{similar}'?" if similar else ""
            raise ValueError(f"{key}.monitor: nobody logs '{name}'; logged are {logged}{hint}")
        if told and trainer.is_global_zero:
            similar = self._similar(self.default)
            keys = " ".join(f"--{key} {similar}" for key in told)
            hint = f"; {keys} watches that" if similar else ""
            what = " and ".join(told)
            print(f"note: nobody logs {self.default}, so {what} do nothing; logged are {logged}{hint}", flush=True)

    def _drop(self, trainer: Trainer, name: str, callback: Callback) -> None:
        self._dropped.add(name)
        # a new list: Lightning is going through the old one
        trainer.callbacks = [c for c in trainer.callbacks if c is not callback]  # type: ignore[attr-defined]

    def _similar(self, name: str) -> str | None:
        return next(iter(difflib.get_close_matches(name, self._logged, n=1, cutoff=0.7)), None)


def _logs_at_epoch_end(trainer: Trainer, pl_module: LightningModule) -> bool:
    silent = (ProgressBar, Checkpoint, EarlyStopping)  # have something to do then, and log nothing
    others = [c for c in trainer.callbacks if not isinstance(c, silent)]  # type: ignore[attr-defined]
    parents: list[tuple[Any, type]] = [(pl_module, LightningModule), *((callback, Callback) for callback in others)]
    return any(is_overridden("on_train_epoch_end", owner, parent) for owner, parent in parents)


def _monitors(trainer: Trainer) -> list[tuple[str, str, Callback | None]]:
    """Config key, monitored metric and, where it is one, callback of everything that monitors."""
    found: list[tuple[str, str, Callback | None]] = []
    for callback in list(trainer.callbacks):  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping):
            found.append(("early_stopping", callback.monitor, callback))
        elif isinstance(callback, ModelCheckpoint) and callback.monitor is not None:
            found.append(("checkpoint", callback.monitor, callback))
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.monitor:
            found.append(("lr_scheduler", config.monitor, None))
    return found
