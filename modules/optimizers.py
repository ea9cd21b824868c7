"""The optimizer and the learning rate schedule of a config, for any LightningModule."""

from math import isfinite
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import instantiate_class
from torch.optim.lr_scheduler import ConstantLR, CyclicLR, OneCycleLR, ReduceLROnPlateau

# arguments that say how long a schedule is; left out, the trainer's number of steps fills them
LENGTH_ARGUMENTS = ("total_steps", "T_max")


def configure_optimizers(
    module: LightningModule, optimizer: dict[str, Any], lr_scheduler: dict[str, Any] | None, monitor: str
) -> dict[str, Any]:
    """What `LightningModule.configure_optimizers` returns, from `class_path` and `init_args`.

    A schedule whose length comes from the trainer ticks once a step, as `OneCycleLR` and `CyclicLR` always do; the
    others tick once an epoch, `ReduceLROnPlateau` with the value of its `monitor`, or else of the `monitor` given here.
    A `max_lr` that is left out is the optimizer's learning rate.

    Raises:
        ValueError: The optimizer or the schedule refuses its arguments, or a schedule needs the run's length and
            the run has no end.
    """
    made = _instantiate("optimizer", (module.parameters(),), _plain(optimizer))
    result: dict[str, Any] = {"optimizer": made}
    if lr_scheduler is None:
        # so that its curve is called `lr` like the others
        result["lr_scheduler"] = {"scheduler": ConstantLR(made, factor=1.0), "name": "lr"}
        return result
    init = _plain(lr_scheduler)
    arguments = init.get("init_args", {})
    length = next((name for name in LENGTH_ARGUMENTS if name in arguments and arguments[name] is None), None)
    # OneCycleLR may also be given its length as epochs x steps_per_epoch
    if length and not arguments.get("epochs"):
        steps = module.trainer.estimated_stepping_batches
        if not isfinite(steps):
            raise ValueError(f"lr_scheduler.{length}: the run has no end; set it, or trainer.max_epochs or max_steps")
        if steps < 1:
            raise ValueError(f"lr_scheduler.{length}: the run has no training steps")
        arguments[length] = int(steps)
    if "max_lr" in arguments and arguments["max_lr"] is None:
        arguments["max_lr"] = [group["lr"] for group in made.param_groups]
    if "monitor" in arguments:
        arguments["monitor"] = arguments["monitor"] or monitor
    scheduler = _instantiate("lr_scheduler", (made,), init)
    result["lr_scheduler"] = {
        "scheduler": scheduler,
        "interval": "step" if length or isinstance(scheduler, OneCycleLR | CyclicLR) else "epoch",
        "name": "lr",
    }
    if isinstance(scheduler, ReduceLROnPlateau):
        result["lr_scheduler"]["monitor"] = getattr(scheduler, "monitor", None) or monitor
        # with validation every few epochs there is nothing to look at in the others
        every = module.trainer.check_val_every_n_epoch  # type: ignore[attr-defined]
        result["lr_scheduler"]["frequency"] = every or 1
    return result


def _instantiate(key: str, args: tuple[Any, ...], init: dict[str, Any]) -> Any:
    try:
        return instantiate_class(args, init)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key}: {init['class_path']} refuses its arguments: {error}") from error


def _plain(init: Any) -> dict[str, Any]:
    init = init.as_dict() if hasattr(init, "as_dict") else init
    return {"class_path": init["class_path"], "init_args": dict(init.get("init_args") or {})}
