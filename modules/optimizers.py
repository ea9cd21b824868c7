"""The optimizer and the learning rate schedule of a config, for any LightningModule."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite
from typing import Any, Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import instantiate_class
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, CyclicLR, OneCycleLR, ReduceLROnPlateau

from modules.initialisation import Init

# arguments that say how long a schedule is; left out, the trainer's number of steps fills them
LENGTH_ARGUMENTS = ("total_steps", "T_max")


@dataclass
class ParameterGroup:
    """Parameters that are trained in a way of their own.

    Args:
        match: Their names, with `*` for anything, as `net.backbone.*`.
        lr_scale: Times the learning rate of the others, through the whole schedule.
        weight_decay: In place of the optimizer's; null keeps that.
        frozen_epochs: For so many epochs at first they stay as they are, and normalisation layers among them use
            their running statistics and leave them alone; -1 is to the end.
    """

    match: str
    lr_scale: float = 1.0
    weight_decay: float | None = None
    frozen_epochs: int = 0


class Parameters:
    """What parameters start from, and how the optimizer treats which of them.

    Args:
        decay: Weight decay on `all` parameters, or on `matrices` alone: on weights, and not on biases and on what
            normalisation layers learn (as Goyal et al. 2017, https://arxiv.org/abs/1706.02677, do for the latter).
        groups: Groups with a learning rate or a weight decay of their own. A parameter is of the first one that its
            name matches.
        init: Start values of the weights in a new run, see `modules.initialisation.initialise`; `default` are the
            network's own. What `weights` fills in comes after it.

    Raises:
        ValueError: A scale, a weight decay or a number of epochs is negative.
    """

    def __init__(
        self,
        decay: Literal["all", "matrices"] = "all",
        groups: Sequence[ParameterGroup] = (),
        init: Init = "default",
    ) -> None:
        for group in groups:
            for name in ("lr_scale", "weight_decay"):
                if (getattr(group, name) or 0.0) < 0:
                    raise ValueError(f"parameters.groups: {name} {getattr(group, name)} of {group.match} is negative")
            if group.frozen_epochs < -1:
                raise ValueError(
                    f"parameters.groups: frozen_epochs {group.frozen_epochs} of {group.match} is below -1, which is to "
                    "the end"
                )
        self.decay, self.groups, self.init = decay, list(groups), init

    def of(self, module: LightningModule, lr: float | None) -> list[Any]:
        """The optimizer's parameter groups, those of the others first; all parameters where nothing is special.

        Args:
            module: Whose parameters they are.
            lr: The learning rate that the scales multiply.

        Raises:
            ValueError: A pattern matches nothing, or there is no learning rate to multiply.
        """
        if self.decay == "all" and not self.groups:
            return list(module.parameters())
        found: dict[tuple[int, bool], list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            place = self._place(name)
            plain = self.decay == "matrices" and parameter.ndim < 2
            found.setdefault((place, plain), []).append(parameter)
        matched = {place for place, _ in found}
        for place, group in enumerate(self.groups):
            if place not in matched:
                names = ", ".join(list(dict(module.named_parameters()))[:5])
                raise ValueError(f"parameters.groups: {group.match!r} matches no parameter that is left, as {names}, …")
        return [self._group(*key, found[key], lr) for key in sorted(found)]

    def frozen(self, module: LightningModule) -> dict[str, int]:
        """By name, for how many epochs parameters stay as they are, those that do; -1 is to the end."""
        places = {name: self._place(name) for name, _ in module.named_parameters()}
        found = {name: self.groups[place].frozen_epochs for name, place in places.items() if place >= 0}
        return {name: epochs for name, epochs in found.items() if epochs}

    def _place(self, name: str) -> int:
        return next((i for i, group in enumerate(self.groups) if fnmatchcase(name, group.match)), -1)

    def _group(self, place: int, plain: bool, parameters: list[nn.Parameter], lr: float | None) -> dict[str, Any]:
        made: dict[str, Any] = {"params": parameters}
        if place >= 0:
            group = self.groups[place]
            if group.lr_scale != 1.0:
                if lr is None:
                    raise ValueError("parameters.groups: lr_scale multiplies optimizer.lr, and the config has none")
                made["lr"] = lr * group.lr_scale
            if group.weight_decay is not None:
                made["weight_decay"] = group.weight_decay
        if plain:
            made["weight_decay"] = 0.0
        return made


def configure_optimizers(
    module: LightningModule,
    optimizer: dict[str, Any],
    lr_scheduler: dict[str, Any] | None,
    monitor: str,
    parameters: Parameters | None = None,
) -> dict[str, Any]:
    """What `LightningModule.configure_optimizers` returns, from `class_path` and `init_args`.

    A schedule whose length comes from the trainer ticks once a step, as `OneCycleLR` and `CyclicLR` always do; the
    others tick once an epoch, `ReduceLROnPlateau` with the value of its `monitor`, or else of the `monitor` given here.
    A `max_lr` that is left out is the optimizer's learning rate.

    Raises:
        ValueError: The optimizer or the schedule refuses its arguments, or a schedule needs the run's length and
            the run has no end.
    """
    chosen = _plain(optimizer)
    rate = chosen["init_args"].get("lr")
    groups = (parameters or Parameters()).of(module, rate)
    made = _instantiate("optimizer", (groups,), chosen)
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
    elif isinstance(arguments.get("max_lr"), int | float) and rate and len(made.param_groups) > 1:
        # a group's share of the rate is one of the top, too
        arguments["max_lr"] = [arguments["max_lr"] * group["lr"] / rate for group in made.param_groups]
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
    except (TypeError, ValueError, ZeroDivisionError) as error:  # the last, OneCycleLR in a run of a few steps
        raise ValueError(f"{key}: {init['class_path']} refuses its arguments: {error}") from error


def _plain(init: Any) -> dict[str, Any]:
    init = init.as_dict() if hasattr(init, "as_dict") else init
    return {"class_path": init["class_path"], "init_args": dict(init.get("init_args") or {})}
