"""The task of telling which of several labels a sample has, with any network that turns inputs into logits."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.losses import binary_focal_loss, weights_of
from modules.metrics import MacroF1, Mean
from modules.task import Task

Loss = Literal["bce", "focal"]


class MultiLabelClassifier(Task):
    """Multi-label classification: each sample has any number of labels, none or all of them, too.

    Logs `train/loss` and `train/acc` (the share of single labels that are right), and of validation and test `loss`,
    `acc`, `macro_f1` (the mean over the labels, so that rare ones count as much as frequent ones) and `exact_match`
    (the share of samples of which all labels are right) once an epoch, each exact over the samples, on one device and
    on many; and `train/loss_step` every `trainer.log_every_n_steps` steps. A label is predicted where its probability
    is above 0.5.

    Args:
        net: The network, inputs `(N, ...)` to logits `(N, num_classes)`.
        num_classes: Number of labels. Comes from the data.
        loss: `bce`, binary cross-entropy, the mean over samples and labels; `focal`, in which a label counts the less
            the surer it is right (Lin et al. 2017, https://arxiv.org/abs/1708.02002); or a module of your own by
            `class_path`, called with logits and labels, both `(N, num_classes)` floats, to give their mean loss `()`.
        focal_gamma: How much less; 0 is `bce`.
        pos_weight: Weights, in the training loss, of the samples that have a label: a list with one for each label; or
            `balanced`, how many samples are without it over how many have it, so that both count as much, which needs a
            datamodule with `pos_weight`. Validation and test go without.

    Raises:
        ValueError: An argument is out of its range, or network or data give another shape.
    """

    multi_label = True  # for those who write predictions

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        loss: Loss | nn.Module = "bce",
        focal_gamma: float = 2.0,
        pos_weight: Literal["none", "balanced"] | list[float] = "none",
    ) -> None:
        super().__init__(lambda stage: _metrics(stage, num_classes))
        if focal_gamma < 0:
            raise ValueError(f"model.focal_gamma: {focal_gamma} is below 0")
        if isinstance(loss, str) and loss not in get_args(Loss):
            allowed = ", ".join(get_args(Loss))
            raise ValueError(f"model.loss: {loss!r} is unknown; allowed are {allowed}, or a class_path")
        if isinstance(loss, nn.Module) and pos_weight != "none":
            raise ValueError(f"model.loss: {type(loss).__name__} takes no pos_weight")
        self.net = net
        self.num_classes = num_classes
        self.loss, self.focal_gamma = loss, focal_gamma
        self.pos_weight = pos_weight
        self.register_buffer("weight", weights_of("pos_weight", pos_weight, num_classes), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs `(N, ...)` to logits `(N, num_classes)`."""
        return self.net(x)

    def on_fit_start(self) -> None:
        if self.pos_weight != "balanced":
            return
        datamodule = getattr(self.trainer, "datamodule", None)
        found = getattr(datamodule, "pos_weight", None)
        if found is None:
            name = type(datamodule).__name__ if datamodule is not None else "a model without a datamodule"
            raise ValueError(f"model.pos_weight: balanced needs pos_weight of the data, and {name} has none")
        self.weight = torch.as_tensor(found, dtype=torch.float32, device=self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch `(inputs, labels)`, the labels `(N, num_classes)` of any dtype, from 0 to 1."""
        logits, y = self._outputs(batch)
        loss = self._loss(logits, y, self.weight)
        self._update("train", logits.detach(), y, loss.detach() * len(y))
        self.log_step(loss)
        return loss

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Probabilities `(N, num_classes)`, float32, of inputs or of a batch `(inputs, labels)`."""
        return self(self.inputs_of(batch)).float().sigmoid()

    def evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """`logits` of a batch `(N, num_classes)`."""
        logits, y = self._outputs(batch)
        # of a small last batch, a device may have no share
        loss = self._loss(logits, y) * len(y) if len(y) else logits.sum() * 0
        self._update(stage, logits, y, loss)
        return {"logits": logits}

    def _loss(self, logits: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        if isinstance(self.loss, nn.Module):
            return self.loss(logits, y)
        if self.loss == "focal":
            return binary_focal_loss(logits, y, self.focal_gamma, weight)
        return F.binary_cross_entropy_with_logits(logits, y, pos_weight=weight)

    def _outputs(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and labels, both `(N, num_classes)` floats."""
        x, y = batch
        logits = self(x)
        if logits.shape != (x.shape[0], self.num_classes):
            name, shape = type(self.net).__name__, tuple(logits.shape)
            raise ValueError(f"model.net: {name} gives {shape} for {len(x)} inputs of {self.num_classes} labels")
        if y.shape != logits.shape:
            hint = "; one class for each sample is for --model modules.Classifier" if y.ndim == 1 else ""
            raise ValueError(f"data: labels of shape {tuple(y.shape)}, and {tuple(logits.shape)} is expected{hint}")
        return logits, y.to(logits.dtype)

    def _update(self, stage: str, logits: Tensor, y: Tensor, loss_sum: Tensor) -> None:
        # sums that stay on the device; nothing is computed until the epoch ends
        metrics, predicted, known = getattr(self, f"{stage}_metrics"), logits > 0, y > 0.5
        right = predicted == known
        metrics["loss"].add(loss_sum, len(y))
        metrics["acc"].add(right.float().mean(1).sum(), len(y))
        if stage != "train":
            metrics["macro_f1"].add(torch.stack(((predicted & known).sum(0), known.sum(0), predicted.sum(0))), len(y))
            metrics["exact_match"].add(right.all(1).sum(), len(y))


def _metrics(stage: str, num_classes: int) -> nn.ModuleDict:
    metrics: dict[str, nn.Module] = {"loss": Mean(), "acc": Mean()}
    if stage != "train":
        metrics |= {"macro_f1": MacroF1(num_classes), "exact_match": Mean()}
    return nn.ModuleDict(metrics)
