"""The task of telling classes apart, with any network that turns inputs into logits."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.metrics import Mean
from modules.task import Task


class Classifier(Task):
    """Single-label classification with cross-entropy.

    Logs `train/loss` and `train/acc`, `val/loss` and `val/acc`, `test/loss` and `test/acc` once an epoch,
    each an exact mean over the samples, on one device and on many; and `train/loss_step` every
    `trainer.log_every_n_steps` steps.

    Args:
        net: The network, inputs `(N, ...)` to logits `(N, num_classes)`.
        num_classes: Number of classes. Comes from the data.
        label_smoothing: Share of the target that is spread over all classes while training
            (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567). Validation and test use the plain loss.
        class_weights: `balanced` weights the training loss of a sample by N / (K n), for the n of N training samples of
            its class among K, so that rare classes count as much as frequent ones (King and Zeng 2001,
            https://doi.org/10.1093/oxfordjournals.pan.a004868). Needs a datamodule with `class_counts`.
        channels_last: Keep images and weights with the channel as the fastest axis, which convolutions run
            faster with on most CPUs, and on GPUs in half precision.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        label_smoothing: float = 0.0,
        channels_last: bool = False,
        class_weights: Literal["none", "balanced"] = "none",
    ) -> None:
        super().__init__(_metrics)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"model.label_smoothing: {label_smoothing} is outside [0, 1)")
        self.net = net
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self.register_buffer(
            "weight", torch.ones(num_classes) if class_weights == "balanced" else None, persistent=False
        )
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format
        if channels_last:
            # mypy does not know the overload of `Module.to` that takes a memory format
            self.net = self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Inputs `(N, ...)` to logits `(N, num_classes)`."""
        if self.memory_format is torch.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return self.net(x)

    def on_fit_start(self) -> None:
        if self.class_weights == "none":
            return
        datamodule = getattr(self.trainer, "datamodule", None)
        counts = getattr(datamodule, "class_counts", None)
        if counts is None:
            name = type(datamodule).__name__ if datamodule is not None else "a model without a datamodule"
            raise ValueError(f"model.class_weights: balanced needs class_counts, and {name} has none")
        counts = torch.as_tensor(counts, dtype=torch.float32, device=self.device)
        self.weight = counts.sum() / (self.num_classes * counts.clamp(min=1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch `(inputs, labels)`, the labels `(N,)` int64."""
        x, y = batch
        logits = self._logits(x)
        loss = F.cross_entropy(logits, y, weight=self.weight, label_smoothing=self.label_smoothing)
        self._update("train", logits.detach(), y, loss.detach() * len(y))
        self.log_step(loss)
        return loss

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Probabilities `(N, num_classes)`, float32, of inputs or of a batch `(inputs, labels)`."""
        return self(self.inputs_of(batch)).float().softmax(dim=1)

    def evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """`logits` of a batch `(N, num_classes)`."""
        x, y = batch
        logits = self._logits(x)
        # the sum: with many devices one may have no sample left, and no mean
        self._update(stage, logits, y, F.cross_entropy(logits, y, reduction="sum"))
        return {"logits": logits}

    def _logits(self, x: Tensor) -> Tensor:
        logits = self(x)
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            name, shape = type(self.net).__name__, tuple(logits.shape)
            raise ValueError(f"model.net: {name} gives {shape} for {len(x)} inputs of {self.num_classes} classes")
        return logits

    def _update(self, stage: str, logits: Tensor, y: Tensor, loss_sum: Tensor) -> None:
        # sums that stay on the device; nothing is computed until the epoch ends
        metrics = getattr(self, f"{stage}_metrics")
        metrics["loss"].add(loss_sum, len(y))
        metrics["acc"].add((logits.argmax(1) == y).sum(), len(y))


def _metrics() -> nn.ModuleDict:
    return nn.ModuleDict({"loss": Mean(), "acc": Mean()})
