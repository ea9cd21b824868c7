"""The task of predicting numbers, with any network that turns inputs into one output for each of them."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.metrics import MAE, R2, RMSE, Mean
from modules.task import Task

Loss = Literal["mse", "mae", "huber", "gaussian_nll"]


class Regressor(Task):
    """Regression of one number or several.

    The network learns targets that are scaled to mean 0 and standard deviation 1; metrics and predictions are in the
    targets' own units. Logs `loss` (of the scaled targets), `rmse`, `mae` and `r2` of training, validation and test
    once an epoch, exact over the samples, on one device and on many; of several targets the mean. And
    `train/loss_step` every `trainer.log_every_n_steps` steps.

    Args:
        net: The network, inputs `(N, ...)` to `(N, num_targets)`; for `gaussian_nll` to `(N, 2 * num_targets)`, the
            means and then the logarithms of the variances.
        num_targets: Numbers to predict. Comes from the data.
        loss: `mse`; `mae`, which outliers move less; `huber`, squared up to `huber_delta` and absolute beyond (Huber
            1964, https://doi.org/10.1214/aoms/1177703732); `gaussian_nll`, which learns how sure it is, too (Nix and
            Weigend 1994, https://doi.org/10.1109/ICNN.1994.374138); or a module of your own by `class_path`, called
            with outputs and scaled targets, both `(N, num_targets)`, to give their mean loss `()`.
        huber_delta: In standard deviations of the target.
        target_mean: Of each target, in its units. Comes from the data; 0 when they don't say it.
        target_std: Of each target, in its units. Comes from the data; 1 when they don't say it.

    Raises:
        ValueError: An argument is out of its range, or the network gives outputs of another shape.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        net: nn.Module,
        num_targets: int,
        loss: Loss | nn.Module = "mse",
        huber_delta: float = 1.0,
        target_mean: Sequence[float] | None = None,
        target_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(lambda stage: _metrics(num_targets))
        if num_targets < 1:
            raise ValueError(f"model.num_targets: {num_targets} is not a positive number")
        if huber_delta <= 0:
            raise ValueError(f"model.huber_delta: {huber_delta} is not a positive number")
        if isinstance(loss, str) and loss not in get_args(Loss):
            allowed = ", ".join(get_args(Loss))
            raise ValueError(f"model.loss: {loss!r} is unknown; allowed are {allowed}, or a class_path")
        self.net = net
        self.num_targets = num_targets
        self.loss, self.huber_delta = loss, huber_delta
        self.num_outputs = num_targets * (2 if loss == "gaussian_nll" else 1)
        for name, values, default in (("target_mean", target_mean, 0.0), ("target_std", target_std, 1.0)):
            numbers = [default] * num_targets if values is None else list(values)
            if len(numbers) != num_targets:
                raise ValueError(f"model.{name}: {len(numbers)} numbers for {num_targets} targets")
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32))
        if not (self.target_std > 0).all():
            raise ValueError(f"model.target_std: {self.target_std.tolist()} has to be above 0")

    def forward(self, x: Tensor) -> Tensor:
        """Inputs `(N, ...)` to the network's outputs `(N, num_outputs)`, of scaled targets."""
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch `(inputs, targets)`, the targets `(N, num_targets)` or `(N,)` in their own units."""
        loss, *_ = self._step("train", batch)
        self.log_step(loss)
        return loss

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Predictions `(N, num_targets)`, float32, in the targets' units, of inputs or of a batch `(inputs, targets)`.

        With `gaussian_nll` `(N, 2 * num_targets)`: the means and then the standard deviations.
        """
        mean, log_variance = self._outputs(self.inputs_of(batch))
        predictions = self._unscaled(mean)
        if log_variance is None:
            return predictions
        return torch.cat((predictions, (0.5 * log_variance.float()).exp() * self.target_std), 1)

    def prediction_names(self, targets: Sequence[str]) -> list[str]:
        """What the columns of `predict_step` are called, for targets of these names."""
        return [*targets, *(f"{name}_std" for name in targets if self.loss == "gaussian_nll")]

    def evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """`predictions` and `targets` of a batch, both `(N, num_targets)` in the targets' units."""
        _, mean, y = self._step(stage, batch)
        return {"predictions": self._unscaled(mean), "targets": y.float()}

    def _step(self, stage: str, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x, y = batch
        y = y[:, None] if y.ndim == 1 else y
        mean, log_variance = self._outputs(x)
        if y.shape != mean.shape:
            raise ValueError(f"data: targets of shape {tuple(y.shape)}, and model.num_targets is {self.num_targets}")
        centred = y.to(self.target_mean.dtype) - self.target_mean
        target = centred / self.target_std
        if not len(y):  # of a small last batch, a device may have no share
            loss = mean.sum() * 0
        elif isinstance(self.loss, nn.Module):
            loss = self.loss(mean, target)
        elif self.loss == "mse":
            loss = F.mse_loss(mean, target)
        elif self.loss == "mae":
            loss = F.l1_loss(mean, target)
        elif self.loss == "huber":
            loss = F.huber_loss(mean, target, delta=self.huber_delta)
        else:
            assert log_variance is not None
            loss = F.gaussian_nll_loss(mean.float(), target, log_variance.float().exp(), full=True, eps=1e-4)
        self._update(stage, loss.detach() * len(y), (mean.detach() - target) * self.target_std, centred)
        return loss, mean, y

    def _outputs(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        outputs = self(x)
        if outputs.shape != (x.shape[0], self.num_outputs):
            name, shape = type(self.net).__name__, tuple(outputs.shape)
            kind = ", a mean and a variance for each of them" if self.num_outputs > self.num_targets else ""
            raise ValueError(f"model.net: {name} gives {shape} for {len(x)} inputs of {self.num_targets} targets{kind}")
        if self.num_outputs == self.num_targets:
            return outputs, None
        mean, log_variance = outputs.chunk(2, 1)
        return mean, log_variance.clamp(-14, 14)  # exp stays finite, in half precision on its way to float32, too

    def _unscaled(self, outputs: Tensor) -> Tensor:
        return outputs.float() * self.target_std + self.target_mean

    def _update(self, stage: str, loss_sum: Tensor, errors: Tensor, centred: Tensor) -> None:
        metrics = getattr(self, f"{stage}_metrics")
        metrics["loss"].add(loss_sum, len(errors))
        # summed once for all three
        sums = torch.stack((errors.square(), errors.abs(), centred, centred.square())).sum(1, dtype=torch.float32)
        for name in ("rmse", "mae", "r2"):
            metrics[name].add(sums, len(errors))


def _metrics(num_targets: int) -> nn.ModuleDict:
    errors = {"rmse": RMSE(num_targets), "mae": MAE(num_targets), "r2": R2(num_targets)}
    return nn.ModuleDict({"loss": Mean(), **errors})
