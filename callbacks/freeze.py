"""Parameters that stay as they are for the first epochs."""

from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


class Freeze(Callback):
    """Freezes parameters, and thaws each after its epochs.

    What is frozen follows from the epoch alone, so there is nothing to keep for a run that goes on. The optimizer has
    all parameters from the start, as a schedule needs it, and passes over those without a gradient. Normalisation
    layers whose parameters are all frozen use their running statistics and do not update them.

    Args:
        epochs: Gives by name for how many epochs parameters are frozen, -1 for all; of others it says nothing.

    Raises:
        ValueError: Nothing would be trained, or the strategy can't take in parameters later on.
    """

    def __init__(self, epochs: Callable[[LightningModule], dict[str, int]]) -> None:
        self._epochs = epochs
        self._at_first: set[str] = set()  # what the module itself does not train
        self._still: set[nn.Module] = set()  # normalisation layers that were put into evaluation mode

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            name = type(trainer.strategy).__name__
            raise ValueError(f"parameters.groups: frozen_epochs is for one device and for DDP, not for {name}")
        self._at_first = {name for name, p in pl_module.named_parameters() if not p.requires_grad}
        self._freeze(pl_module, trainer.current_epoch)  # before DDP shares out what is trained

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # of a run that goes on within an epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        changed = self._freeze(pl_module, trainer.current_epoch)
        self._still_norms(pl_module)
        strategy = trainer.strategy
        if changed and isinstance(strategy, DDPStrategy):
            # the gradients of what was frozen when it was made are none of its business
            strategy.model = strategy._setup_model(pl_module)
            strategy._register_ddp_hooks()

    def _freeze(self, module: LightningModule, epoch: int) -> bool:
        """Whether something has changed."""
        epochs, changed = self._epochs(module), False
        for name, parameter in module.named_parameters():
            trained = name not in self._at_first and 0 <= epochs.get(name, 0) <= epoch
            changed |= parameter.requires_grad != trained
            parameter.requires_grad_(trained)
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise ValueError(f"parameters.groups: with frozen_epochs nothing is trained in epoch {epoch}")
        return changed

    def _still_norms(self, module: LightningModule) -> None:
        for layer in module.modules():
            own = list(layer.parameters(recurse=False))
            if not isinstance(layer, _NormBase) or not own:
                continue
            frozen = not any(parameter.requires_grad for parameter in own)
            if frozen and layer.training:
                self._still.add(layer)
                layer.eval()
            elif not frozen and layer in self._still:
                self._still.remove(layer)
                layer.train()
