"""Networks, tasks and data of `fresh.py` and `last.py`, written in the ways in which different people write them.

Batches that are dicts, tables in a TensorDataset, a stream, text made up by rules; networks in `nn.Sequential`, with
functions in `forward`, as a language model; optimizers of the module's own. Each has faults that a key builds in.
"""

import io
import string
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
import torchmetrics
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from PIL import Image
from sklearn import datasets
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

HERE = "benchmarks.doctor.fresh_parts."


def family(model: str, data: str, epochs: int, lr: float, **more: Any) -> dict[str, Any]:
    """The keys of a run of the classes below; `model_KEY`, `data_KEY` and `trainer_KEY` are theirs."""
    keys = {"model": HERE + model, "data": HERE + data, "trainer.max_epochs": epochs, "optimizer.lr": lr}
    return keys | {key.replace("_", ".", 1): value for key, value in more.items()}


def by_itself(recipe: str, lr: float, **more: Any) -> dict[str, Any]:
    """The module makes its optimizer; put it last, it drops the rate of the run's own."""
    made = {"optimizer": None, "optimizer.lr": None, "model.recipe": recipe, "model.lr": lr}
    return made | {"model." + key: value for key, value in more.items()}


# ---- tasks


class DictClassifier(LightningModule):
    """An `nn.Sequential` over batches `{"x": (N, ...), "y": (N,)}`.

    Args:
        sizes: Units of the hidden layers.
        recipe: An optimizer of the module's own: `two_groups` is AdamW without weight decay for vectors, `one_cycle`
            is SGD with momentum under OneCycleLR by steps, `cosine` is SGD with momentum under a cosine by steps.
        lr, weight_decay: Of that.
        class_weights: `balanced` weights the classes by their rarity.
        weight_std: Draw all weights with this standard deviation; 0 leaves them as torch draws them.
        bias: Added at the start to the biases of the hidden layers.
        momentum: Of the running statistics of batch normalisation.
        fault: `softmax` ends the network with it; `log_zero` writes cross-entropy as the logarithm of probabilities;
            `left_out` gives that of `two_groups` the last layer only.
        severity: Of `log_zero`, a factor of the logits.
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (64,),
        num_classes: int = 10,
        sizes: list[int] = [64, 64],  # noqa: B006 (read only)
        activation: Literal["ReLU", "Tanh", "Sigmoid", "GELU", "SELU", "LeakyReLU", "Identity"] = "ReLU",
        batch_norm: bool = False,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        recipe: Literal["none", "two_groups", "one_cycle", "cosine"] = "none",
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        class_weights: Literal["none", "balanced"] = "none",
        weight_std: float = 0.0,
        bias: float = 0.0,
        momentum: float = 0.1,
        fault: Literal["none", "softmax", "log_zero", "left_out"] = "none",
        severity: float = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        layers: list[nn.Module] = [nn.Flatten()]
        size = int(np.prod(shape))
        for width in sizes:
            layers.append(nn.Linear(size, width))
            if batch_norm:
                layers.append(nn.BatchNorm1d(width, momentum=momentum))
            layers.append(getattr(nn, activation)())
            if dropout:
                layers.append(nn.Dropout(dropout))
            size = width
        layers.append(nn.Linear(size, num_classes))
        if fault == "softmax":
            layers.append(nn.Softmax(dim=1))
        self.net = nn.Sequential(*layers)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        self.train_acc = torchmetrics.Accuracy("multiclass", num_classes=num_classes)
        self.val_acc = torchmetrics.Accuracy("multiclass", num_classes=num_classes)
        linear = [layer for layer in self.net if isinstance(layer, nn.Linear)]
        with torch.no_grad():
            for layer in linear:
                if weight_std:
                    nn.init.normal_(layer.weight, std=weight_std)
            for layer in linear[:-1]:
                layer.bias += bias

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def on_fit_start(self) -> None:
        if self.hparams.class_weights == "balanced":
            counts = torch.bincount(self.trainer.datamodule.train_labels, minlength=self.hparams.num_classes)
            self.criterion.weight = counts.sum() / (len(counts) * counts.clamp(min=1).float())

    def configure_optimizers(self) -> Any:
        o = self.hparams
        if o.recipe == "two_groups":
            trained = list((self.net[-1] if o.fault == "left_out" else self).parameters())
            decayed, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim < 2]
            groups = [{"params": decayed, "weight_decay": o.weight_decay}, {"params": others, "weight_decay": 0.0}]
            return torch.optim.AdamW(groups, lr=o.lr)
        optimizer = torch.optim.SGD(self.parameters(), lr=o.lr, momentum=0.9, weight_decay=o.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        if o.recipe == "one_cycle":
            schedule: Any = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=o.lr, total_steps=steps)
        else:
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self(batch["x"])
        if self.hparams.fault == "log_zero":
            chances = (logits * self.hparams.severity).softmax(dim=1)
            loss = -(F.one_hot(batch["y"], chances.shape[1]) * torch.log(chances)).sum(1).mean()
        else:
            loss = self.criterion(logits, batch["y"])
        self.train_acc(logits, batch["y"])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits = self(batch["x"])
        self.val_acc(logits, batch["y"])
        self.log("val/loss", F.cross_entropy(logits, batch["y"]), prog_bar=True, batch_size=len(logits))
        self.log("val/acc", self.val_acc, prog_bar=True, on_epoch=True)


class TutorialNet(LightningModule):
    """Two convolutions and two linear layers, as in many a tutorial: functions in `forward`, NLL of a log-softmax.

    Args:
        channels: Of the first convolution; the second has twice as many.
        hidden: Units of the first linear layer.
        loss: `nll` of log-probabilities, or `ce` of logits.
        bias: Added at the start to the biases before the ReLUs.
        weight_std: Draw all weights with this standard deviation; 0 leaves them as torch draws them.
        constant: All weights have this value at the start; None leaves them as torch draws them.
        activation: A function of torch.
        frozen: Parameters whose names begin with this are frozen, as they should be.
        fault: `softmax` feeds probabilities to cross-entropy; `detach` cuts the graph after the convolutions;
            `standardised_in_training` divides by the batch's spread in training alone; `other_inputs` mixes up the
            inputs of a batch.
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (1, 8, 8),
        num_classes: int = 10,
        channels: int = 8,
        hidden: int = 32,
        loss: Literal["nll", "ce"] = "nll",
        dropout: float = 0.0,
        activation: Literal["relu", "tanh", "sigmoid"] = "relu",
        bias: float = 0.0,
        weight_std: float = 0.0,
        constant: float | None = None,
        frozen: str = "",
        fault: Literal["none", "softmax", "detach", "standardised_in_training", "other_inputs"] = "none",
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(shape[0], channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.fc1 = nn.Linear(2 * channels * (shape[1] // 4) * (shape[2] // 4), hidden)
        self.fc2 = nn.Linear(hidden, num_classes)
        self.loss, self.dropout, self.fault = loss, dropout, fault
        self.act = getattr(torch, activation)
        for layer in (self.conv1, self.conv2, self.fc1, self.fc2):
            if weight_std:
                nn.init.normal_(layer.weight, std=weight_std)
            if constant is not None:
                nn.init.constant_(layer.weight, constant)
            if layer is not self.fc2:
                layer.bias.data += bias
        for name, parameter in self.named_parameters():
            if frozen and name.startswith(frozen):
                parameter.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "standardised_in_training" and self.training:
            x = (x - x.mean()) / x.std()
        x = F.max_pool2d(self.act(self.conv1(x)), 2)
        x = F.max_pool2d(self.act(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        if self.fault == "detach":
            x = x.detach()
        x = F.dropout(self.act(self.fc1(x)), self.dropout, training=self.training)
        x = self.fc2(x)
        if self.fault == "softmax":
            return F.softmax(x, dim=1)
        return F.log_softmax(x, dim=1) if self.loss == "nll" else x

    def _step(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
        if self.fault == "other_inputs" and self.training:
            x = x[torch.randperm(len(x))]
        output = self(x)
        return output, y, F.nll_loss(output, y) if self.loss == "nll" else F.cross_entropy(output, y)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        _, _, loss = self._step(batch)
        self.log("train_loss", loss)
        return {"loss": loss}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        output, y, loss = self._step(batch)
        right = output.argmax(dim=1).eq(y).float().mean()
        self.log_dict({"val/loss": loss, "val/acc": right}, batch_size=len(y))


class Regression(LightningModule):
    """A number for each row of a table; batches `((N, F), (N, 1))`. Its quality is `val/r2`, it has no accuracy.

    Args:
        recipe: An optimizer of the module's own: Adam whose rate `ReduceLROnPlateau` lowers.
        lr: Of that.
    """

    def __init__(
        self,
        features: int = 10,
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.0,
        loss: Literal["mse", "huber", "l1"] = "mse",
        activation: Literal["relu", "tanh", "silu", "sigmoid"] = "relu",
        recipe: Literal["none", "plateau"] = "none",
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        sizes = [features, *[width] * depth]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.out = nn.Linear(sizes[-1], 1)
        self.drop = nn.Dropout(dropout)
        self.act = {"relu": F.relu, "tanh": torch.tanh, "silu": F.silu, "sigmoid": torch.sigmoid}[activation]
        self.kind, self.lr = loss, lr
        self.r2 = torchmetrics.R2Score()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.drop(self.act(layer(x)))
        return self.out(x)

    def _loss(self, said: Tensor, y: Tensor) -> Tensor:
        return {"mse": F.mse_loss, "huber": F.huber_loss, "l1": F.l1_loss}[self.kind](said, y)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = self._loss(self(x), y)
        self.log("train/loss", loss, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        said = self(x)
        self.r2(said, y)
        self.log("val/loss", self._loss(said, y), batch_size=len(y))
        self.log("val/r2", self.r2, on_epoch=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2, factor=0.3)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss"}}


class CharModel(LightningModule):
    """What character comes next, at every position of `(N, T)`: `val/acc` is the share that is right.

    Args:
        kind: Recurrent cells, or a transformer that sees the past only.
        fault: `softmax` feeds probabilities to cross-entropy; `detach` cuts the graph before the last layer.
    """

    def __init__(
        self,
        kind: Literal["rnn", "gru", "lstm", "transformer"] = "gru",
        vocabulary: int = 27,
        length: int = 32,
        width: int = 64,
        depth: int = 1,
        dropout: float = 0.0,
        fault: Literal["none", "softmax", "detach"] = "none",
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.kind, self.fault = kind, fault
        if kind == "transformer":
            self.positions = nn.Embedding(length, width)
            layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
            self.blocks = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        else:
            self.rnn = getattr(nn, kind.upper())(width, width, depth, batch_first=True)
        self.drop = nn.Dropout(dropout)
        self.lm_head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        if self.kind == "transformer":
            t = tokens.shape[1]
            mask = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
            x = self.blocks(x + self.positions(torch.arange(t, device=x.device)), mask=mask)
        else:
            x, _ = self.rnn(x)
        if self.fault == "detach":
            x = x.detach()
        logits = self.lm_head(self.drop(x))
        return logits.softmax(-1) if self.fault == "softmax" else logits

    def training_step(self, tokens: Tensor, batch_idx: int) -> Tensor:
        logits = self(tokens[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1))
        self.log("train/loss", loss)
        return loss

    def validation_step(self, tokens: Tensor, batch_idx: int) -> None:
        logits, targets = self(tokens[:, :-1]), tokens[:, 1:]
        self.log("val/loss", F.cross_entropy(logits.transpose(1, 2), targets), batch_size=len(tokens))
        self.log("val/acc", (logits.argmax(-1) == targets).float().mean(), batch_size=len(tokens))


class Autoencoder(LightningModule):
    """Rows `(N, F)` through a few numbers and back; the labels of the batch are not used."""

    def __init__(self, features: int = 64, code: int = 8, width: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(features, width), nn.ReLU(), nn.Linear(width, code))
        self.decoder = nn.Sequential(nn.Linear(code, width), nn.ReLU(), nn.Linear(width, features))

    def _loss(self, batch: Any) -> Tensor:
        x = batch["x"].flatten(1)
        return F.mse_loss(self.decoder(self.encoder(x)), x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train/loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self._loss(batch), batch_size=len(batch["x"]))


class PairEncoder(LightningModule):
    """Two noisy views of a row find one another among those of the batch (InfoNCE); `val/acc` is how many do."""

    def __init__(self, features: int = 64, width: int = 64, noise: float = 0.5, temperature: float = 0.1) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(features, width), nn.GELU(), nn.Linear(width, 32))
        self.noise, self.temperature = noise, temperature

    def _compare(self, batch: Any) -> tuple[Tensor, Tensor]:
        x = batch["x"].flatten(1)
        views = [F.normalize(self.net(x + self.noise * torch.randn_like(x)), dim=1) for _ in range(2)]
        scores = views[0] @ views[1].T / self.temperature
        own = torch.arange(len(x), device=x.device)
        return F.cross_entropy(scores, own), (scores.argmax(1) == own).float().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, _ = self._compare(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss, right = self._compare(batch)
        self.log_dict({"val/loss": loss, "val/acc": right}, batch_size=len(batch["x"]))


class MovingAverage(Callback):
    """Validates with an exponential moving average of the weights, and trains on with the weights."""

    def __init__(self, decay: float = 0.95) -> None:
        self.decay = decay

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.average = AveragedModel(_Weights(pl_module), multi_avg_fn=get_ema_multi_avg_fn(self.decay))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.average.update_parameters(_Weights(pl_module))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.kept = [p.detach().clone() for p in pl_module.parameters()]
        self._write(pl_module, list(self.average.module.values))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(pl_module, self.kept)

    @staticmethod
    @torch.no_grad()
    def _write(pl_module: LightningModule, values: list[Any]) -> None:
        for parameter, value in zip(pl_module.parameters(), values, strict=True):
            parameter.copy_(value)


class _Weights(nn.Module):
    """The parameters of a module and nothing of its trainer, so that they can be copied."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.values = nn.ParameterList([nn.Parameter(p.detach(), p.requires_grad) for p in module.parameters()])


# ---- data


class Records(Dataset):
    """Dicts of one sample; `seconds` is what reading it takes longer, `pictures` are decoded each time."""

    def __init__(self, x: Tensor, y: Tensor, seconds: float = 0.0, pictures: list[bytes] | None = None) -> None:
        self.x, self.y, self.seconds, self.pictures = x, y, seconds, pictures

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        if self.seconds:
            time.sleep(self.seconds)
        if self.pictures:
            with Image.open(io.BytesIO(self.pictures[i])) as image:
                image.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)
        return {"x": self.x[i], "y": self.y[i]}


class Shelf(LightningDataModule):
    """Small sets in batches `{"x", "y"}`.

    Args:
        name: `letters` (1 x 8 x 8 grey values from 0 to 255, 26 classes: a pattern of strokes each, moved and noisy),
            `scans` (scikit-learn's digits in the same form), `sensors` (24 numbers, 6 classes, in units of their own),
            `rings` (3 numbers: which of 4 shells), `parity` (6 numbers, 2 classes: the sign of the product of three).
        samples: Of drawn sets.
        scale: Bring the inputs to mean 0 and standard deviation 1 (tables column by column), to [0, 1], or not at all.
        fault: `zero_spread` has a column without spread and divides by it; `few` and `noisy` are a share of the
            training samples or of their labels; `unaligned` shuffles the labels apart from the inputs; `rare` keeps
            that share of the upper half of the classes; `slow` is seconds for a sample; `decode` has pictures of that
            many pixels a side to decode; `glitches` is one sample in so many, a hundred thousand times as large;
            `thousands` multiplies a column; `sorted`; `val_off_by_one` counts the labels of the validation part from 1;
            `val_unscaled` has its inputs as they are.
        severity: How much.
    """

    def __init__(
        self,
        name: Literal["letters", "scans", "sensors", "rings", "parity"] = "letters",
        samples: int = 1600,
        batch_size: int = 32,
        scale: Literal["standard", "unit", "none"] = "standard",
        num_workers: int = 0,
        fault: Literal[
            "none", "zero_spread", "few", "noisy", "unaligned", "rare", "slow", "decode", "glitches", "thousands",
            "sorted", "val_off_by_one", "val_unscaled",
        ] = "none",
        severity: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.name, self.samples, self.batch_size, self.scale = name, samples, batch_size, scale
        self.num_workers, self.fault, self.severity = num_workers, fault, severity

    @property
    def num_classes(self) -> int:
        return {"letters": 26, "scans": 10, "sensors": 6, "rings": 4, "parity": 2}[self.name]

    @property
    def shape(self) -> tuple[int, ...]:
        return {"sensors": (24,), "rings": (3,), "parity": (6,)}.get(self.name, (1, 8, 8))

    def setup(self, stage: str) -> None:
        rng = np.random.default_rng(17)
        x, y = _drawn(self.name, self.samples, rng)
        x, x_val, y, y_val = train_test_split(x, y, test_size=0.3, random_state=5, stratify=y)
        if self.fault == "few":
            kept = np.arange(len(y)) < self.severity * len(y)
        elif self.fault == "rare":
            kept = (y < self.num_classes // 2) | (rng.random(len(y)) < self.severity)
        else:
            kept = np.ones(len(y), bool)
        x, y = x[kept], y[kept]
        if self.fault == "noisy":
            y = np.where(rng.random(len(y)) < self.severity, rng.integers(0, self.num_classes, len(y)), y)
        elif self.fault == "unaligned":
            y = rng.permutation(y)
        elif self.fault == "sorted":
            order = y.argsort(kind="stable")
            x, y = x[order], y[order]
        elif self.fault == "val_off_by_one":
            y_val = (y_val + 1) % self.num_classes
        elif self.fault == "zero_spread":
            x[:, 5] = x_val[:, 5] = 3.0  # a sensor that was never plugged in
        x, x_val = self._scaled(x, x_val)
        if self.fault == "thousands":
            x[:, 2], x_val[:, 2] = x[:, 2] * self.severity, x_val[:, 2] * self.severity
        elif self.fault == "glitches":
            x[:: int(self.severity)] *= 1e5
        self.train_labels = torch.from_numpy(y)
        pictures = [_png(int(self.severity), rng)] * len(y) if self.fault == "decode" else None
        seconds = self.severity if self.fault == "slow" else 0.0
        self.train_set = Records(torch.from_numpy(x).float(), self.train_labels, seconds, pictures)
        self.val_set = Records(torch.from_numpy(x_val).float(), torch.from_numpy(y_val))

    def _scaled(self, x: np.ndarray, x_val: np.ndarray) -> list[np.ndarray]:
        if self.scale == "none":
            return [x, x_val]
        axis = None if x.ndim == 4 else 0
        if self.scale == "unit":
            center, spread = x.min(axis), x.max(axis) - x.min(axis)
        else:
            center, spread = x.mean(axis), x.std(axis)
        with np.errstate(invalid="ignore"):  # 0 / 0 is the fault
            return [(x - center) / spread, x_val if self.fault == "val_unscaled" else (x_val - center) / spread]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.train_set, self.batch_size, shuffle=self.fault != "sorted", drop_last=True,
            num_workers=self.num_workers, persistent_workers=self.num_workers > 0,
        )  # fmt: skip

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, batch_size=256)


def _drawn(name: str, n: int, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    if name == "scans":
        x, y = datasets.load_digits(return_X_y=True)
        return x.reshape(-1, 1, 8, 8) * (255 / 16), y
    if name == "rings":
        x = rng.normal(size=(n, 3))
        y = np.arange(n) % 4
        return x / np.linalg.norm(x, axis=1, keepdims=True) * (1 + y + rng.normal(0, 0.12, n))[:, None], y
    if name == "parity":
        x = rng.uniform(-1, 1, (n, 6))
        return x, (x[:, :3].prod(1) > 0).astype(np.int64)
    if name == "sensors":
        x, y = datasets.make_classification(
            n, 24, n_informative=12, n_redundant=4, n_classes=6, n_clusters_per_class=1, class_sep=1.4, flip_y=0,
            random_state=8,
        )  # fmt: skip
        return x * rng.uniform(0.5, 3, 24) + rng.uniform(-2, 2, 24), y.astype(np.int64)
    y = np.arange(n) % 26
    patterns = rng.random((26, 6, 6)) < 0.4
    x = rng.normal(40, 35, (n, 1, 8, 8))
    for image, pattern in zip(x[:, 0], patterns[y], strict=True):
        row, column = rng.integers(0, 3, 2)
        image[row : row + 6, column : column + 6] += pattern * rng.uniform(100, 200)
    return x.clip(0, 255).round(), y


def _png(side: int, rng: Any) -> bytes:
    made = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(made, "PNG")
    return made.getvalue()


class Tables(LightningDataModule):
    """A target for each row, in a TensorDataset.

    Args:
        name: scikit-learn's `friedman1`, `friedman2` and `friedman3`, or `diabetes` (its columns in their units).
        scale_inputs, scale_targets: Bring them to mean 0 and standard deviation 1.
        train_share: How many of the training rows are used.
    """

    def __init__(
        self,
        name: Literal["friedman1", "friedman2", "friedman3", "diabetes"] = "friedman1",
        samples: int = 1500,
        noise: float = 0.5,
        batch_size: int = 32,
        scale_inputs: bool = True,
        scale_targets: bool = True,
        train_share: float = 1.0,
    ) -> None:
        super().__init__()
        self.name, self.samples, self.noise, self.batch_size = name, samples, noise, batch_size
        self.scale_inputs, self.scale_targets, self.train_share = scale_inputs, scale_targets, train_share

    def setup(self, stage: str) -> None:
        if self.name == "diabetes":
            x, y = datasets.load_diabetes(return_X_y=True, scaled=False)
        else:
            x, y = getattr(datasets, "make_" + self.name)(self.samples, noise=self.noise, random_state=2)
        x, x_val, y, y_val = train_test_split(x, y[:, None], test_size=0.3, random_state=1)
        kept = int(self.train_share * len(x))
        x, y = x[:kept], y[:kept]
        if self.scale_inputs:
            x_val, x = (x_val - x.mean(0)) / x.std(0), (x - x.mean(0)) / x.std(0)
        if self.scale_targets:
            y_val, y = (y_val - y.mean()) / y.std(), (y - y.mean()) / y.std()
        self.train = TensorDataset(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32))
        self.val = TensorDataset(torch.tensor(x_val, dtype=torch.float32), torch.tensor(y_val, dtype=torch.float32))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=len(self.val))


class Endless(IterableDataset):
    """Samples as they come, `count` an epoch."""

    def __init__(self, count: int, ordered: bool, seconds: float, seed: int) -> None:
        self.count, self.ordered, self.seconds, self.seed = count, ordered, seconds, seed
        self.epoch = 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        self.epoch += self.seed == 0  # the validation part is the same each time
        labels = rng.integers(0, 5, self.count)
        for y in np.sort(labels) if self.ordered else labels:
            if self.seconds:
                time.sleep(self.seconds)
            t = np.linspace(0, 1, 24) + rng.uniform(0, 1)
            series = np.sin(2 * np.pi * (y + 1) * t) + rng.normal(0, 0.5, 24)
            yield {"x": torch.from_numpy(series).float(), "y": torch.tensor(int(y))}


class Stream(LightningDataModule):
    """Five kinds of waves of 24 points without end; `ordered` class by class, `seconds` to wait for each."""

    num_classes = 5
    shape = (24,)

    def __init__(self, count: int = 1280, batch_size: int = 32, ordered: bool = False, seconds: float = 0.0) -> None:
        super().__init__()
        self.count, self.batch_size, self.ordered, self.seconds = count, batch_size, ordered, seconds

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Endless(self.count, self.ordered, self.seconds, 0), self.batch_size)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Endless(500, False, 0.0, 1), 250)


class Text(LightningDataModule):
    """Sentences of made-up words in windows of characters `(N, length + 1)`, 26 letters and a blank.

    Args:
        characters: Of the training text; the validation text has 6,000, from the same words.
        words: How many there are, some of them far more often than others.
    """

    def __init__(self, characters: int = 30_000, length: int = 32, batch_size: int = 32, words: int = 60) -> None:
        super().__init__()
        self.characters, self.length, self.batch_size, self.words = characters, length, batch_size, words

    def setup(self, stage: str) -> None:
        rng = np.random.default_rng(12)
        syllables = [a + b for a in "bcdfghjklmnpqrstvwxz" for b in "aeiouy"]
        lexicon = ["".join(rng.choice(syllables, rng.integers(1, 5))) for _ in range(self.words)]
        often = 1 / np.arange(1, self.words + 1)
        chosen = rng.choice(self.words, self.characters + 6000, p=often / often.sum())
        codes = {c: i for i, c in enumerate(" " + string.ascii_lowercase)}
        text = torch.tensor([codes[c] for c in " ".join(lexicon[i] for i in chosen)])
        step = self.length + 1
        self.val = text[:6000][: 6000 // step * step].reshape(-1, step)
        train = text[6000 : 6000 + self.characters]
        self.train = train[: len(train) // step * step].reshape(-1, step)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, 128)  # type: ignore[arg-type]
