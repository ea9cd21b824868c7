"""Averages of the weights over the steps, which often generalise better than the last ones."""

from itertools import compress
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from callbacks.evaluated import EvaluatedWeights, copy_into, values_of

Method = Literal["none", "ema", "swa"]
STATE = "averaging_state"


class Averaging(EvaluatedWeights, WeightAveraging):
    """Lightning's WeightAveraging, for runs that can be cut anywhere.

    Validation, checkpoints, the test and predictions have the average as soon as there is one; training goes on with
    its own weights. Running statistics are averaged like parameters.

    Args:
        method: `none`; `ema`, the exponential moving average over the steps (Polyak and Juditsky 1992,
            https://doi.org/10.1137/0330046), whose decay rises to `decay` as (1 + t) / (10 + t) in step t, as in
            TensorFlow's `ExponentialMovingAverage`, so that a short run does not hang on to its first weights; or
            `swa`, the mean over the ends of the epochs (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407),
            for a learning rate that does not go down to 0.
        decay: Share of the old average in the new one, in [0, 1).
        start_epoch: The first epoch whose weights count; left out, 0 for `ema` and three quarters of
            `trainer.max_epochs` for `swa`.

    Raises:
        ValueError: An argument is out of its range, or the end is not known from which `swa` would take its start.
    """

    def __init__(self, method: Method = "none", decay: float = 0.999, start_epoch: int | None = None) -> None:
        if method not in get_args(Method):
            raise ValueError(f"averaging.method: {method!r} is unknown; allowed are {', '.join(get_args(Method))}")
        if not 0 <= decay < 1:
            raise ValueError(f"averaging.decay: {decay} is outside [0, 1)")
        if start_epoch is not None and start_epoch < 0:
            raise ValueError(f"averaging.start_epoch: {start_epoch} is below 0")
        EvaluatedWeights.__init__(self)
        WeightAveraging.__init__(self)
        self.method, self.decay, self.start_epoch = method, decay, start_epoch
        self._started = False  # whether there is an average

    # ---- the average

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            name = type(trainer.strategy).__name__
            raise ValueError(f"averaging.method: {self.method} is for one device and for DDP, not for {name}")
        self._first = self.start_epoch or 0
        if self.method == "swa" and self.start_epoch is None:
            epochs = trainer.max_epochs
            if epochs is None or epochs < 1:
                raise ValueError("averaging.start_epoch: swa needs it, where trainer.max_epochs does not say the end")
            self._first = 3 * epochs // 4
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._average_model is not None
        self._average_model.module.to(pl_module.device)  # its counter stays where reading it waits for nothing

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # type: ignore[override]
        if trainer.global_step == self._latest_update_step:
            return
        if trainer.current_epoch < self._first and not self._started:  # an average that has begun does not pause
            return
        if self.method == "swa" and not trainer.is_last_batch:  # before the validation of the epoch, and not after it
            return
        self._update()
        self._latest_update_step, self._started = trainer.global_step, True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # of a run that goes on within an epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # listed once: `AveragedModel.update_parameters` does that in each step, which takes twenty times as long as
        # the averaging of a small network
        assert self._average_model is not None
        averages, values = values_of(self._average_model.module), values_of(pl_module)
        floats = [average.is_floating_point() for average in averages]
        self._floats = list(compress(averages, floats)), list(compress(values, floats))
        counts = [not is_float for is_float in floats]  # numbers of batches and the like
        self._counts = list(compress(averages, counts)), list(compress(values, counts))

    @torch.no_grad()
    def _update(self) -> None:
        assert self._average_model is not None
        count = int(self._average_model.n_averaged)
        old = min(self.decay, (1 + count) / (10 + count)) if self.method == "ema" else count / (count + 1)
        averages, values = self._floats
        torch._foreach_lerp_(averages, values, 1 - (old if count else 0.0))
        if self._counts[0]:
            torch._foreach_copy_(*self._counts)
        self._average_model.n_averaged += 1

    # ---- in place of the trained weights

    def available(self, trainer: Trainer) -> bool:
        return self._started

    def put(self, trainer: Trainer, module: LightningModule) -> None:
        assert self._average_model is not None
        copy_into(module, values_of(self._average_model.module))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1 and self._average_model is not None:
            # each process has running statistics of its own: what is validated is what is saved
            for buffer in self._average_model.module.buffers():
                dist.broadcast(buffer, src=0)
        super().on_validation_start(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: `on_validation_start` has done it, before others look at the weights."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: `on_validation_end` does it."""

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "method": self.method, "started": self._started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["method"] == self.method:
            super().load_state_dict(state_dict)
            self._started = state_dict["started"]

    def keep(self, checkpoint: dict[str, Any]) -> None:
        assert self._average_model is not None
        state = self._average_model.state_dict()
        checkpoint[STATE] = {name: value for name, value in state.items() if not name.startswith("module.")}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        method = checkpoint["callbacks"].get(self.state_key, {}).get("method")
        if trainer.state.fn == "fit" and STATE in checkpoint and method == self.method:
            assert self._average_model is not None
            state = {f"module.{name}": value for name, value in checkpoint["state_dict"].items()}
            self._average_model.load_state_dict(state | checkpoint[STATE])
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
