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
    An optimizer or a schedule of another class begins anew, a schedule as long as the run in its middle.

    Args:
        ends: The keys of the config that say when the run is to end. When they are others than those with which it
            was stopped early, it goes on.
    """

    def __init__(self, ends: dict[str, Any] | None = None) -> None:
        self.ends = ends or {}
        self._new: dict[str, Any] = {}
        self._then: dict[str, Any] = {}
        self._optimizers: list[dict[str, Any]] = []
        self._schedules: list[dict[str, Any]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        self._new = copy.deepcopy(
            {
                "optimizers": list(map(_name, trainer.optimizers)),
                "groups": [[_without_params(group) for group in o.param_groups] for o in trainer.optimizers],
                "schedulers": list(map(_name, schedules)),
                "schedules": [schedule.state_dict() for schedule in schedules],
            }
        )

    def state_dict(self) -> dict[str, Any]:
        return {**self._new, "ends": self.ends}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._then = state_dict

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        go_on = checkpoint["callbacks"].get(self.state_key, {}).get("ends") != self.ends
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            state = checkpoint["callbacks"].get(callback.state_key)
            if isinstance(callback, EarlyStopping) and state:
                state["patience"] = callback.patience
                if go_on:
                    state["stopping_reason"] = EarlyStoppingReason.NOT_STOPPED.value
                    state["stopping_reason_message"] = None
        if go_on:
            trainer.should_stop = False
        # restored in `on_train_start`, where the new ones can be looked at
        self._optimizers, checkpoint["optimizer_states"] = checkpoint["optimizer_states"], []
        self._schedules, checkpoint["lr_schedulers"] = checkpoint["lr_schedulers"], []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.ckpt_path:
            return
        then, new = self._then, self._new
        same_optimizers = then.get("optimizers", new["optimizers"]) == new["optimizers"]
        if same_optimizers:
            trainer.strategy.load_optimizer_state_dict({"optimizer_states": self._optimizers})
            for optimizer, now, before in zip(trainer.optimizers, new["groups"], _padded(then, "groups"), strict=False):
                _keep_changes(optimizer, now, before or [])
        if same_optimizers and then.get("schedulers", new["schedulers"]) == new["schedulers"]:
            before = _padded(then, "schedules")
            for config, saved, now in zip(
                trainer.lr_scheduler_configs, self._schedules, new["schedules"], strict=False
            ):
                _restore_schedule(config.scheduler, saved, now, next(before))
            return
        for optimizer, now in zip(trainer.optimizers, new["groups"], strict=False):
            for group, fresh in zip(optimizer.param_groups, now, strict=False):
                group["lr"] = fresh["lr"]  # and not what the old schedule had made of it
        for config in trainer.lr_scheduler_configs:
            _move_on(config.scheduler, trainer)


def _name(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _padded(then: dict[str, Any], key: str) -> Any:
    """The entries of a record, and None for as long as more are asked for."""
    yield from then.get(key, [])
    while True:
        yield None


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


def _restore_schedule(scheduler: Any, saved: dict[str, Any], new: dict[str, Any], then: dict[str, Any] | None) -> None:
    """Load a schedule's progress, and keep what was configured anew."""
    if then is None:  # without a record, all that is no counter counts as changed
        then = {name: new[name] for name in COUNTERS if name in new}
    changed = {name: value for name, value in new.items() if name not in then or not same(value, then[name])}
    scheduler.load_state_dict({**saved, **changed})
    if changed:
        _set_rates(scheduler)


def _move_on(scheduler: Any, trainer: Trainer) -> None:
    """Bring a new schedule that is as long as the run to the run's present step."""
    steps = trainer.estimated_stepping_batches
    if steps in (getattr(scheduler, "total_steps", None), getattr(scheduler, "T_max", None)):
        scheduler.last_epoch, scheduler._step_count = trainer.global_step, trainer.global_step + 1
        _set_rates(scheduler)


def _set_rates(scheduler: Any) -> None:
    """Give the optimizer the learning rates of the step at which a schedule is."""
    rates = None
    if not isinstance(scheduler, LRScheduler):
        return
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
