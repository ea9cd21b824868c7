"""Going on with a run whose config has been changed: what the config says counts, not what the checkpoint says."""

import copy
import warnings
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, CyclicLR, LambdaLR, LRScheduler, OneCycleLR

# what a schedule counts; all else of it is configured
COUNTERS = ("last_epoch", "_step_count", "_last_lr", "best", "num_bad_epochs", "cooldown_counter", "T_cur", "T_i")
# `get_lr` of these gives the learning rate of a step, whatever was before it; that of others goes on from the last one
DIRECT = (OneCycleLR, CyclicLR, LambdaLR, CosineAnnealingWarmRestarts)


class Resume(Callback):
    """Restores optimizers and schedules so that a changed learning rate, weight decay or length takes effect.

    A checkpoint holds each of their values, the configured ones too, and loading it would bring back the old config.
    So each checkpoint also holds what optimizers and schedules were like when they were new. What is new now and
    was new then are compared: what is different was changed by the user and stays, all else is progress and is loaded.

    Args:
        optimizer_changed: Another class of optimizer is configured than the run had: it begins anew.
        schedule_changed: The same for the schedule.
        go_on: The user has changed when the run is to end: an early stop of before does not count.
    """

    def __init__(self, optimizer_changed: bool = False, schedule_changed: bool = False, go_on: bool = False) -> None:
        self.optimizer_changed, self.schedule_changed, self.go_on = optimizer_changed, schedule_changed, go_on
        self._new: dict[str, Any] = {}
        self._then: dict[str, Any] = {}
        self._schedules: list[dict[str, Any]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        groups = [[_without_params(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
        schedules = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
        self._new = copy.deepcopy({"groups": groups, "schedules": schedules})

    def state_dict(self) -> dict[str, Any]:
        return self._new

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._then = state_dict

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            state = checkpoint["callbacks"].get(callback.state_key)
            if isinstance(callback, EarlyStopping) and state:
                state["patience"] = callback.patience
                if self.go_on:
                    state["stopping_reason"] = EarlyStoppingReason.NOT_STOPPED.value
                    state["stopping_reason_message"] = None
        if self.go_on:
            trainer.should_stop = False
        # schedules are restored in `on_train_start`, where the new ones can be looked at
        self._schedules, checkpoint["lr_schedulers"] = checkpoint["lr_schedulers"], []
        if self.optimizer_changed:
            checkpoint["optimizer_states"] = []
        if self.optimizer_changed or self.schedule_changed:
            self._schedules = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.ckpt_path:
            return
        groups, schedules = self._then.get("groups", []), self._then.get("schedules", [])
        if not self.optimizer_changed:
            for i, optimizer in enumerate(trainer.optimizers):
                _keep_changes(optimizer, self._new["groups"][i], groups[i] if i < len(groups) else [])
        for i, saved in enumerate(self._schedules):
            new = self._new["schedules"][i]
            # without a record of then, whatever is no counter counts as changed
            then = schedules[i] if i < len(schedules) else {name: new[name] for name in COUNTERS if name in new}
            _restore_schedule(trainer.lr_scheduler_configs[i].scheduler, saved, new, then)


def _without_params(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _keep_changes(optimizer: Any, new: list[dict[str, Any]], then: list[dict[str, Any]]) -> None:
    """Put the configured values that have changed back into an optimizer whose state was just loaded."""
    for i, (group, now) in enumerate(zip(optimizer.param_groups, new, strict=False)):
        before = then[i] if i < len(then) else {}
        for name, value in now.items():
            if name in before and same(value, before[name]):
                continue
            # the rate may have come down by a schedule: it stays the same share of the configured one
            scale = name == "lr" and before.get(name) and group[name] != before[name]
            group[name] = value * group[name] / before[name] if scale else value


def _restore_schedule(scheduler: Any, saved: dict[str, Any], new: dict[str, Any], then: dict[str, Any]) -> None:
    """Load a schedule's progress, and keep what was configured anew."""
    changed = {name: value for name, value in new.items() if name not in then or not same(value, then[name])}
    scheduler.load_state_dict({**saved, **changed})
    if not changed or not isinstance(scheduler, LRScheduler):
        return
    rates = None
    if hasattr(scheduler, "_get_closed_form_lr"):
        rates = scheduler._get_closed_form_lr()
    elif isinstance(scheduler, DIRECT):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is meant to be called within `step`
            rates = scheduler.get_lr()
    if rates is not None:
        for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler._last_lr = list(rates)


def same(a: Any, b: Any) -> bool:
    """Whether two values of a state are equal, tensors in them too."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    return bool(a == b)
