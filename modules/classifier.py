"""The task of telling classes apart, with any network that turns inputs into logits."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.losses import focal_loss, weights_of
from modules.metrics import ClassSums, MacroF1, MacroRecall, Mean
from modules.task import Task

Loss = Literal["cross_entropy", "focal"]
BY_CLASS = ("macro_recall", "macro_f1")


class Classifier(Task):
    """Single-label classification.

    Logs `train/loss` and `train/acc`, and of validation and test `loss`, `acc`, `macro_recall` and `macro_f1` (the mean
    over the classes, so that rare ones count as much as frequent ones) once an epoch, each exact over the samples, on
    one device and on many; and `train/loss_step` every `trainer.log_every_n_steps` steps.

    Args:
        net: The network, inputs `(N, ...)` to logits `(N, num_classes)`.
        num_classes: Number of classes. Comes from the data.
        label_smoothing: Share of the target that is spread over all classes while training
            (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567). Validation and test go without.
        channels_last: Keep images and weights with the channel as the fastest axis, which convolutions run
            faster with on most CPUs, and on GPUs in half precision.
        class_weights: Weights of the classes in the training loss: a list; or `balanced`, which weights a sample by
            N / (K n), for the n of N training samples of its class among K, so that rare classes count as much as
            frequent ones (King and Zeng 2001, https://doi.org/10.1093/oxfordjournals.pan.a004868), and needs a
            datamodule with `class_counts`. Validation and test go without.
        loss: `cross_entropy`; `focal`, in which a sample counts the less the surer it is recognised (Lin et al. 2017,
            https://arxiv.org/abs/1708.02002); or a module of your own by `class_path`, called with logits
            `(N, num_classes)` and labels `(N,)` to give their mean loss `()`.
        focal_gamma: How much less; 0 is cross-entropy.

    Raises:
        ValueError: An argument is out of its range, or the network gives outputs of another shape.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        label_smoothing: float = 0.0,
        channels_last: bool = False,
        class_weights: Literal["none", "balanced"] | list[float] = "none",
        loss: Loss | nn.Module = "cross_entropy",
        focal_gamma: float = 2.0,
    ) -> None:
        super().__init__(lambda stage: _metrics(stage, num_classes))
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"model.label_smoothing: {label_smoothing} is outside [0, 1)")
        if focal_gamma < 0:
            raise ValueError(f"model.focal_gamma: {focal_gamma} is below 0")
        if isinstance(loss, str) and loss not in get_args(Loss):
            allowed = ", ".join(get_args(Loss))
            raise ValueError(f"model.loss: {loss!r} is unknown; allowed are {allowed}, or a class_path")
        if isinstance(loss, nn.Module) and (label_smoothing or class_weights != "none"):
            raise ValueError(f"model.loss: {type(loss).__name__} takes no label_smoothing and no class_weights")
        self.net = net
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.loss, self.focal_gamma = loss, focal_gamma
        self.class_weights = class_weights
        self.register_buffer("weight", weights_of("class_weights", class_weights, num_classes), persistent=False)
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
        if self.memory_format is torch.channels_last and self.device.type == "cpu":
            self._refuse_what_corrupts_memory()
        if self.class_weights != "balanced":
            return
        datamodule = getattr(self.trainer, "datamodule", None)
        counts = getattr(datamodule, "class_counts", None)
        if counts is None:
            name = type(datamodule).__name__ if datamodule is not None else "a model without a datamodule"
            raise ValueError(f"model.class_weights: balanced needs class_counts, and {name} has none")
        counts = torch.as_tensor(counts, dtype=torch.float32, device=self.device)
        self.weight = counts.sum() / (self.num_classes * counts.clamp(min=1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch `(inputs, labels)`, the labels `(N,)` int64 or, mixed, `(N, num_classes)` floats."""
        x, y = batch
        _check_labels(y, mixed=y.is_floating_point())
        logits = self._logits(x)
        loss = self._loss(logits, y, self.weight, self.label_smoothing)
        self._update("train", logits.detach(), y if y.ndim == 1 else y.argmax(1), loss.detach() * len(y))
        self.log_step(loss)
        return loss

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Probabilities `(N, num_classes)`, float32, of inputs or of a batch `(inputs, labels)`."""
        return self(self.inputs_of(batch)).float().softmax(dim=1)

    def evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """`logits` of a batch `(N, num_classes)`."""
        x, y = batch
        _check_labels(y)
        logits = self._logits(x)
        # of a small last batch, a device may have no share
        loss = self._loss(logits, y) * len(y) if len(y) else logits.sum() * 0
        self._update(stage, logits, y, loss)
        return {"logits": logits}

    def _refuse_what_corrupts_memory(self) -> None:
        # oneDNN writes past a buffer in their backward pass: crashes, hangs and wrong gradients, seen with torch 2.13
        # on AVX2 (https://github.com/uxlfoundation/oneDNN/issues/6035)
        for name, layer in self.net.named_modules():
            if not isinstance(layer, nn.Conv2d) or layer.kernel_size != (1, 1) or layer.stride == (1, 1):
                continue
            if layer.in_channels < 8:
                raise ValueError(
                    f"model.channels_last: net.{name}, a 1 x 1 convolution with a stride, has {layer.in_channels} "
                    "channels, and with less than 8 torch corrupts the memory of a CPU; set it to false"
                )

    def _loss(self, logits: Tensor, y: Tensor, weight: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        if isinstance(self.loss, nn.Module):
            return self.loss(logits, y)
        if self.loss == "focal":
            return focal_loss(logits, y, self.focal_gamma, weight, smoothing)
        return F.cross_entropy(logits, y, weight=weight, label_smoothing=smoothing)

    def _logits(self, x: Tensor) -> Tensor:
        logits = self(x)
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            name, shape = type(self.net).__name__, tuple(logits.shape)
            raise ValueError(f"model.net: {name} gives {shape} for {len(x)} inputs of {self.num_classes} classes")
        return logits

    def _update(self, stage: str, logits: Tensor, y: Tensor, loss_sum: Tensor) -> None:
        # sums that stay on the device; nothing is computed until the epoch ends
        metrics, predicted = getattr(self, f"{stage}_metrics"), logits.argmax(1)
        metrics["loss"].add(loss_sum, len(y))
        metrics["acc"].add((predicted == y).sum(), len(y))
        if stage != "train":
            sums = ClassSums.sums(predicted, y, self.num_classes)
            for name in BY_CLASS:
                metrics[name].add(sums, len(y))


def _check_labels(y: Tensor, mixed: bool = False) -> None:
    if y.ndim != 1 and not mixed:
        hint = "several labels for each sample are for --model modules.MultiLabelClassifier"
        raise ValueError(f"data: labels of shape {tuple(y.shape)}, and {(len(y),)} is expected; {hint}")


def _metrics(stage: str, num_classes: int) -> nn.ModuleDict:
    metrics: dict[str, nn.Module] = {"loss": Mean(), "acc": Mean()}
    if stage != "train":
        metrics |= zip(BY_CLASS, (MacroRecall(num_classes), MacroF1(num_classes)), strict=True)
    return nn.ModuleDict(metrics)
