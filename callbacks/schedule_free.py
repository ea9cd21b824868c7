"""Optimizers that train other weights than those that are to be evaluated, and say so by `train()` and `eval()`."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from callbacks.averaging import Averaging
from callbacks.evaluated import EvaluatedWeights


class ScheduleFree(EvaluatedWeights):
    """Puts optimizers with `train()` and `eval()` into the one mode for steps, and into the other for evaluation.

    As the package `schedulefree` has them (Defazio et al. 2024, https://arxiv.org/abs/2405.15682). Their ways between
    the two are arithmetic, which rounds; here the trained weights come back as copies, so that it makes no difference
    to a training how often it is validated or saved. Running statistics stay those of the trained weights.

    It also sees to it that a run which goes on without what it was evaluated with takes the trained weights.

    Raises:
        ValueError: The weights are averaged by `averaging.method`, too.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer in self._optimizers(trainer):
            if any(isinstance(callback, Averaging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
                name = type(optimizer).__name__
                raise ValueError(f"averaging.method: {name} averages weights by itself; allowed is none")
            optimizer.train()

    def available(self, trainer: Trainer) -> bool:
        return any(optimizer.state for optimizer in self._optimizers(trainer))

    def put(self, trainer: Trainer, module: LightningModule) -> None:
        for optimizer in self._optimizers(trainer):
            optimizer.eval()

    def taken_out(self, trainer: Trainer) -> None:
        for optimizer in self._optimizers(trainer):
            optimizer.train()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        for state in checkpoint.get("optimizer_states", []):
            for group in state["param_groups"]:
                if "train_mode" in group:  # in a validation it is off, and with the trained weights it is on
                    group["train_mode"] = True

    @staticmethod
    def _optimizers(trainer: Trainer) -> list[Any]:
        return [
            optimizer for optimizer in trainer.optimizers if hasattr(optimizer, "train") and hasattr(optimizer, "eval")
        ]
