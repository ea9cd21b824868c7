"""Weights that are evaluated in place of those that are trained: averages, or what an optimizer makes of them."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

TRAINED = "current_model_state"  # Lightning's name for them in a checkpoint whose `state_dict` holds an average


class EvaluatedWeights(Callback):
    """Validates with other weights than those that are trained, and saves both.

    The `state_dict` of a checkpoint holds those that are evaluated, which is what is tested and predicts; a run that
    goes on takes the trained ones from beside them. They change places by copies, and so without a trace in training.
    """

    def __init__(self) -> None:
        self._trained: list[Tensor] | None = None  # while the module has the others

    # ---- what a subclass gives

    @abstractmethod
    def available(self, trainer: Trainer) -> bool:
        """Whether there are other weights by now."""

    @abstractmethod
    def put(self, trainer: Trainer, module: LightningModule) -> None:
        """Put them into the module."""

    def taken_out(self, trainer: Trainer) -> None:
        """Called when the trained ones are about to come back."""

    def keep(self, checkpoint: dict[str, Any]) -> None:
        """Add to a checkpoint what else a run needs to go on."""

    # ---- validation

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self.available(trainer):
            self._show(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._hide(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._hide(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What stays in the module are the weights that were evaluated."""
        if self.available(trainer):
            self.put(trainer, pl_module)

    # ---- checkpoints

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self.available(trainer):
            return
        shown = self._trained is not None
        if not shown:
            self._show(trainer, pl_module)
        evaluated = _state_of(pl_module, checkpoint["state_dict"])
        self._hide(trainer, pl_module)
        if "optimizer_states" in checkpoint:  # otherwise no run will go on from it
            self.keep(checkpoint)
            checkpoint[TRAINED] = _state_of(pl_module, checkpoint["state_dict"])
        checkpoint["state_dict"] = evaluated
        if shown:  # a validation goes on
            self._show(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit" and TRAINED in checkpoint:
            pl_module.load_state_dict(checkpoint[TRAINED])

    # ---- inside

    def _show(self, trainer: Trainer, module: LightningModule) -> None:
        self._trained = [values.detach().clone() for values in values_of(module)]
        self.put(trainer, module)

    def _hide(self, trainer: Trainer, module: LightningModule) -> None:
        if self._trained is not None:
            trained, self._trained = self._trained, None
            self.taken_out(trainer)
            copy_into(module, trained)


def values_of(module: torch.nn.Module) -> list[Tensor]:
    """All parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


@torch.no_grad()
def copy_into(module: torch.nn.Module, values: list[Tensor]) -> None:
    """Give a module the values of `values_of`."""
    for own, value in zip(values_of(module), values, strict=True):
        own.copy_(value)


def _state_of(module: LightningModule, names: Iterable[str]) -> dict[str, Any]:
    """Copies of what a module has by these names."""
    state = module.state_dict()
    return {name: value.detach().clone() if isinstance(value := state[name], Tensor) else value for name in names}
