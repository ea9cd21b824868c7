"""Networks, tasks and data sets of the held-out cases, with faults that a key builds in.

`Learner` and `Sets` are strangers to the project; `FaultyCNN`, `FaultyMLP`, `FaultyDigits` and `Pictures` are its own
networks and images with something wrong around them.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from sklearn import datasets
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, default_collate

from datamodules import Digits
from datamodules.batches import Batches
from datamodules.image_arrays import ImageArrays
from modules.nets import CNN, MLP

Function = Literal["relu", "tanh", "sigmoid", "silu", "elu", "leaky_relu", "linear"]

# ---- networks, with functions and not modules between the layers


def _apply(name: str) -> Callable[[Tensor], Tensor]:
    if name == "linear":
        return lambda x: x
    return {"tanh": torch.tanh, "sigmoid": torch.sigmoid}.get(name) or getattr(F, name)


class Dense(nn.Module):
    """Fully connected layers, with or without shortcuts: rows to features `(N, width)`."""

    def __init__(
        self, inputs: int, width: int, depth: int, function: str, norm: str, dropout: float, shortcuts: bool
    ) -> None:
        super().__init__()
        sizes = [inputs, *[width] * depth]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        kinds = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": lambda width: nn.Identity()}
        self.norms = nn.ModuleList(kinds[norm](width) for _ in self.layers)
        self.function, self.dropout, self.shortcuts, self.features = _apply(function), dropout, shortcuts, sizes[-1]

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            h = F.dropout(self.function(norm(layer(x))), self.dropout, self.training)
            x = x + h if self.shortcuts and h.shape == x.shape else h
        return x


class Convolutions(nn.Module):
    """3 x 3 convolutions, every second one with stride 2, and the mean over the pixels."""

    def __init__(self, channels: int, width: int, depth: int, function: str, norm: str, dropout: float) -> None:
        super().__init__()
        sizes = [channels, *[width] * depth]
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=1 + i % 2, padding=1) for i, (a, b) in enumerate(pairwise(sizes))
        )
        kinds = {"batch": nn.BatchNorm2d, "layer": lambda n: nn.GroupNorm(1, n), "none": lambda n: nn.Identity()}
        self.norms = nn.ModuleList(kinds[norm](width) for _ in self.layers)
        self.function, self.dropout, self.features = _apply(function), dropout, width

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.function(norm(layer(x)))
        return F.dropout(x.mean((2, 3)), self.dropout, self.training)


class Recurrent(nn.Module):
    """An RNN, GRU or LSTM over tokens or over a series, and its last state."""

    def __init__(self, kind: str, inputs: int, tokens: bool, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(inputs, width) if tokens else nn.Linear(inputs, width)
        made = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[kind]
        self.cells = made(width, width, depth, batch_first=True, dropout=dropout if depth > 1 else 0.0)
        self.features = width

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(self.embed(x))[0][:, -1]


class Attention(nn.Module):
    """A transformer encoder with a token of its own, whose last state it gives."""

    def __init__(
        self, inputs: int, length: int, tokens: bool, width: int, depth: int, dropout: float, norm: str
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(inputs, width) if tokens else nn.Linear(inputs, width)
        self.position = nn.Parameter(torch.randn(1, length + 1, width) * 0.02)
        self.summary = nn.Parameter(torch.zeros(1, 1, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, batch_first=True, norm_first=norm == "layer")
            for _ in range(depth)
        )
        self.features = width

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = torch.cat([self.summary.expand(len(x), -1, -1), x], 1) + self.position
        for layer in self.layers:
            x = layer(x)
        return x[:, 0]


# ---- the task

Fault = Literal[
    "none", "log_of_probability", "empty_class", "divide_by_spread", "shuffled_targets", "blank_inputs", "loss_scale",
    "softmax", "l1", "l2", "no_grad", "replaced", "eval_scale", "eval_raw", "eval_flip", "input_dropout",
]  # fmt: skip


class Learner(LightningModule):
    """A classifier: one of the networks above, a linear layer, and a loss that is a module.

    Args:
        kind: The network. `residual` is `dense` with shortcuts.
        shape: Of an input: `(F,)`, `(C, H, W)` or `(T, C)`; `(T, 0)` are tokens.
        vocabulary: Number of different tokens.
        function: Between the layers of `dense`, `residual` and `conv`.
        loss: Cross-entropy, the same as log-softmax and NLL, or for two classes one logit and binary cross-entropy.
        gain: The weights at the start, times this; `recurrent_gain` only those from step to step.
        weight_std: Draw them with this standard deviation; 0 leaves them as torch draws them.
        constant: All weights have this value at the start; 0 leaves them as torch draws them.
        bias, head_bias, norm_bias: Added at the start to the biases of the layers, to the first of the head's, and to
            those of the normalisations.
        momentum: Of the running statistics of batch normalisation.
        frozen: Parameters whose names begin with this are frozen, as they should be.
        fault, severity: What is wrong with the task, and how much.
    """

    def __init__(
        self,
        kind: Literal["dense", "residual", "conv", "rnn", "gru", "lstm", "attention"] = "dense",
        shape: tuple[int, ...] = (64,),
        num_classes: int = 10,
        vocabulary: int = 12,
        width: int = 48,
        depth: int = 3,
        function: Function = "relu",
        norm: Literal["none", "batch", "layer"] = "none",
        dropout: float = 0.0,
        loss: Literal["ce", "nll", "bce"] = "ce",
        label_smoothing: float = 0.0,
        class_weights: list[float] | None = None,
        gain: float = 1.0,
        recurrent_gain: float = 1.0,
        weight_std: float = 0.0,
        constant: float = 0.0,
        bias: float = 0.0,
        head_bias: float = 0.0,
        norm_bias: float = 0.0,
        momentum: float = 0.1,
        frozen: str = "",
        fault: Fault = "none",
        severity: float = 1.0,
    ) -> None:
        super().__init__()
        shape = tuple(shape)
        tokens = len(shape) == 2 and shape[1] == 0
        if kind in ("dense", "residual"):
            inputs = math.prod(shape)
            self.body: nn.Module = Dense(inputs, width, depth, function, norm, dropout, kind == "residual")
        elif kind == "conv":
            self.body = Convolutions(shape[0], width, depth, function, norm, dropout)
        elif kind == "attention":
            self.body = Attention(vocabulary if tokens else shape[1], shape[0], tokens, width, depth, dropout, norm)
        else:
            self.body = Recurrent(kind, vocabulary if tokens else shape[1], tokens, width, depth, dropout)
        self.head = nn.Linear(self.body.features, 1 if loss == "bce" else num_classes)  # type: ignore[arg-type]
        weights = torch.tensor(class_weights) if class_weights else None
        self.criterion: nn.Module
        if loss == "bce":
            self.criterion = nn.BCEWithLogitsLoss(pos_weight=None if weights is None else weights[1] / weights[0])
        elif loss == "nll":
            self.criterion = nn.NLLLoss(weights)
        else:
            self.criterion = nn.CrossEntropyLoss(weights, label_smoothing=label_smoothing)
        self.loss, self.num_classes, self.fault, self.severity = loss, num_classes, fault, severity
        self._start(gain, recurrent_gain, weight_std, constant, bias, head_bias, norm_bias, momentum)
        for name, parameter in self.named_parameters():
            if frozen and name.startswith(frozen):
                parameter.requires_grad_(False)

    @torch.no_grad()
    def _start(
        self, gain: float, recurrent_gain: float, std: float, constant: float, bias: float, head_bias: float,
        norm_bias: float, momentum: float,
    ) -> None:  # fmt: skip
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                if std:
                    part.weight.normal_(0, std)
                if constant:
                    part.weight.fill_(constant)
                part.weight.mul_(gain)
                if part is not self.head and part.bias is not None:
                    part.bias.add_(bias)
            elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
                part.bias.add_(norm_bias)
                if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                    part.momentum = momentum
        for name, parameter in self.named_parameters():
            if "weight_hh" in name:
                parameter.mul_(recurrent_gain)
        self.head.bias[0] += head_bias

    def forward(self, x: Tensor) -> Tensor:
        x = self._spoiled(x)
        if self.fault == "no_grad":
            with torch.no_grad():
                x = self.body(x)
        else:
            x = self.body(x)
        x = self.head(x)
        return F.softmax(x, 1) if self.fault == "softmax" else x

    def _spoiled(self, x: Tensor) -> Tensor:
        if self.fault == "blank_inputs":
            return x * 0
        if self.fault == "divide_by_spread":
            return (x - x.mean(0)) / x.std(0)
        if self.fault == "input_dropout":
            return F.dropout(x, self.severity, self.training)
        if self.fault == "eval_raw" and self.training:
            return (x - x.mean(0)) / (x.std(0) + 1e-3)
        if self.training:
            return x
        if self.fault == "eval_scale":
            return x * self.severity
        return x.flip(-1) if self.fault == "eval_flip" else x

    def on_train_start(self) -> None:
        if self.fault == "replaced":  # the optimizer has the parameters of the old one
            self.body = copy.deepcopy(self.body)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        if self.fault == "shuffled_targets":
            y = y[torch.randperm(len(y))]
        loss = self._loss(self(x), y)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def _loss(self, out: Tensor, y: Tensor) -> Tensor:
        if self.fault == "log_of_probability":
            return -(out * self.severity).softmax(1).gather(1, y[:, None]).log().mean()
        if self.fault == "empty_class":  # as much weight for each class of the batch, also for those it doesn't have
            each = F.cross_entropy(out, y, reduction="none")
            return torch.stack([each[y == k].mean() for k in range(self.num_classes)]).mean()
        if self.loss == "bce":
            loss = self.criterion(out[:, 0], y.float())
        else:
            loss = self.criterion(out.log_softmax(1) if self.loss == "nll" else out, y)
        if self.fault == "loss_scale":
            return loss * self.severity
        if self.fault in ("l1", "l2"):
            size = torch.abs if self.fault == "l1" else torch.square
            loss = loss + self.severity * sum(size(p).sum() for p in self.parameters())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        out = self(x)
        if self.loss == "bce":
            loss, said = F.binary_cross_entropy_with_logits(out[:, 0], y.float()), (out[:, 0] > 0).long()
        else:
            loss, said = F.cross_entropy(out, y), out.argmax(1)
        self.log("val/loss", loss, batch_size=len(y))
        self.log("val/acc", (said == y).float().mean(), batch_size=len(y))


# ---- data in memory, in DataLoaders

Wrong = Literal[
    "none", "missing", "infinite", "outliers", "rare", "sorted", "slow_sample", "slow_batch", "busy_sample", "raw",
    "offset", "scaled", "wide_column", "few", "noisy", "random", "val_labels", "val_raw", "val_columns", "leak",
]  # fmt: skip


class Samples(Dataset):
    """Inputs and labels, and something that takes time for each."""

    def __init__(self, x: Tensor, y: Tensor, cost: Callable[[], None] | None = None) -> None:
        self.x, self.y, self.cost = x, y, cost

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if self.cost:
            self.cost()
        return self.x[i], self.y[i]


class Loaders(LightningDataModule):
    """The loaders of a set whose parts are `train_set` and `val_set`, with the faults that a loader can have."""

    o: Any
    train_set: Any
    val_set: Any

    def train_dataloader(self) -> DataLoader:
        o = self.o
        return DataLoader(
            self.train_set, o.batch_size, shuffle=o.shuffle and o.fault != "sorted", num_workers=o.num_workers,
            drop_last=True, persistent_workers=o.num_workers > 0, collate_fn=self._collate,
        )  # fmt: skip

    def _collate(self, samples: list[Any]) -> Any:
        if self.o.fault == "slow_batch":
            time.sleep(self.o.severity)
        return default_collate(samples)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, 200)


class Sets(Loaders):
    """A small set with at most one fault.

    Args:
        name: `digits`, `wine`, `cancer`, `iris`; drawn tables `blobs`, `moons`, `quantiles` (shells around 0),
            `hastie`, `spirals` (three arms in the plane), `circles`; `shapes` (3 x 12 x 12 images of bars, crosses,
            frames and discs); `waves` (series of 32 x 2, told apart by their frequency); `words` (20 tokens
            out of 12, each class with its own habits of what follows what).
        samples: Of drawn sets.
        features, classes: Of `blobs` and `quantiles`; classes of `words`.
        images: `digits` as 1 x 8 x 8.
        normalize: Bring the inputs to mean 0 and standard deviation 1, column by column.
        rare_in_val: The validation part is as imbalanced as the training part.
        fault, severity: What is wrong with the data, and how much.
    """

    def __init__(
        self,
        name: Literal[
            "digits", "wine", "cancer", "iris", "blobs", "moons", "quantiles", "hastie", "spirals", "circles", "shapes",
            "waves", "words",
        ] = "digits",
        samples: int = 1500,
        features: int = 12,
        classes: int = 3,
        images: bool = False,
        batch_size: int = 32,
        num_workers: int = 0,
        shuffle: bool = True,
        normalize: bool = True,
        rare_in_val: bool = False,
        fault: Wrong = "none",
        severity: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.save_hyperparameters()
        self.o = self.hparams

    @property
    def num_classes(self) -> int:
        known = {"digits": 10, "wine": 3, "cancer": 2, "iris": 3, "moons": 2, "hastie": 2, "spirals": 3, "circles": 2,
                 "shapes": 4, "waves": 4}  # fmt: skip
        return known.get(self.o.name, self.o.classes)

    @property
    def shape(self) -> tuple[int, ...]:
        o = self.o
        known = {"digits": (1, 8, 8) if o.images else (64,), "wine": (13,), "cancer": (30,), "iris": (4,),
                 "moons": (2,), "hastie": (10,), "spirals": (2,), "circles": (2,), "shapes": (3, 12, 12),
                 "waves": (32, 2), "words": (20, 0)}  # fmt: skip
        return known.get(o.name, (o.features,))

    def _load(self) -> tuple[np.ndarray, np.ndarray]:
        o = self.o
        rng = np.random.default_rng(7)
        if o.name in ("digits", "wine", "cancer", "iris"):
            load = {"digits": datasets.load_digits, "wine": datasets.load_wine, "iris": datasets.load_iris}
            return load.get(o.name, datasets.load_breast_cancer)(return_X_y=True)
        if o.name == "blobs":
            return datasets.make_blobs(o.samples, o.features, centers=o.classes, cluster_std=4.0, random_state=4)
        if o.name == "moons":
            return datasets.make_moons(o.samples, noise=0.15, random_state=4)
        if o.name == "circles":
            return datasets.make_circles(o.samples, noise=0.1, factor=0.4, random_state=4)
        if o.name == "quantiles":
            return datasets.make_gaussian_quantiles(
                n_samples=o.samples, n_features=o.features, n_classes=o.classes, random_state=4
            )
        if o.name == "hastie":
            x, y = datasets.make_hastie_10_2(o.samples, random_state=4)
            return x, (y > 0).astype(np.int64)
        drawn = {"spirals": _spirals, "shapes": _shapes, "waves": _waves}.get(o.name)
        return drawn(o.samples, rng) if drawn else _words(o.samples, o.classes, rng)

    def setup(self, stage: str) -> None:
        o = self.o
        rng = np.random.default_rng(3)
        x, y = self._load()
        x_train, x_val, y_train, y_val = train_test_split(x, y, test_size=0.3, random_state=3, stratify=y)
        if o.fault == "rare":
            kept = self._kept(y_train, rng)
            x_train, y_train = x_train[kept], y_train[kept]
            if o.rare_in_val:
                kept = self._kept(y_val, rng)
                x_val, y_val = x_val[kept], y_val[kept]
        elif o.fault == "few":
            chosen = rng.permutation(len(y_train))[: int(o.severity * len(y_train))]
            x_train, y_train = x_train[chosen], y_train[chosen]
        elif o.fault == "noisy":
            y_train = np.where(
                rng.random(len(y_train)) < o.severity, rng.integers(0, self.num_classes, len(y_train)), y_train
            )
        elif o.fault == "random":
            y_train, y_val = (rng.integers(0, self.num_classes, len(part)) for part in (y_train, y_val))
        elif o.fault == "val_labels":
            y_val = (y_val + 1) % self.num_classes
        elif o.fault == "sorted":
            order = np.argsort(y_train, kind="stable")
            x_train, y_train = x_train[order], y_train[order]
        if o.name == "words":
            tensors = [torch.from_numpy(np.ascontiguousarray(part)).long() for part in (x_train, x_val)]
        else:
            values = self._values(x_train.astype(np.float32), x_val.astype(np.float32), y_train, rng)
            tensors = [torch.from_numpy(np.ascontiguousarray(v, np.float32)).reshape(-1, *self.shape) for v in values]
        cost = {"slow_sample": lambda: time.sleep(o.severity), "busy_sample": lambda: _busy(int(o.severity))}
        self.train_set = Samples(tensors[0], torch.from_numpy(y_train).long(), cost.get(o.fault))
        self.val_set = Samples(tensors[1], torch.from_numpy(y_val.copy()).long())

    def _kept(self, y: np.ndarray, rng: Any) -> np.ndarray:
        # the last class is the rare one, and with four classes and more the upper half of them
        first = self.num_classes // 2 if self.num_classes > 3 else self.num_classes - 1
        return (y < first) | (rng.random(len(y)) < self.o.severity)

    def _values(self, train: np.ndarray, val: np.ndarray, y: np.ndarray, rng: Any) -> list[np.ndarray]:
        o = self.o
        parts = [train, val]
        if o.normalize and o.fault != "raw":
            axis = (0, 1) if train.ndim == 3 else ((0, 2, 3) if train.ndim == 4 else 0)
            center, spread = train.mean(axis, keepdims=True), train.std(axis, keepdims=True)
            spread = np.where(spread < 1e-6, 1, spread)
            parts = [(part - center) / spread for part in parts]
        if o.fault == "offset":
            parts = [part + o.severity for part in parts]
        elif o.fault == "scaled":
            parts = [part * o.severity for part in parts]
        elif o.fault == "wide_column":
            for part in parts:
                part[:, 1] *= o.severity
        elif o.fault == "val_raw":
            parts[1] = val
        elif o.fault == "val_columns":
            parts[1] = parts[1][:, ::-1]
        elif o.fault == "leak":  # a column that knows the label, and in the validation part doesn't
            parts[0][:, 0] = y * o.severity
            parts[1][:, 0] = rng.permutation(np.resize(y, len(val))) * o.severity
        elif o.fault in ("missing", "infinite"):
            every = int(o.severity)
            parts[0][every::every, -1] = np.nan if o.fault == "missing" else np.inf
        elif o.fault == "outliers":
            every = int(o.severity)
            parts[0][every::every] *= 3000
        return parts


def _busy(rounds: int) -> None:
    """What decoding a picture costs: work, and not waiting."""
    picture = np.arange(4096, dtype=np.float64)
    for _ in range(rounds):
        picture = np.sort(np.sin(picture))


def _spirals(samples: int, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(samples) % 3
    radius = rng.uniform(0.1, 1, samples)
    angle = 4 * radius + 2 * np.pi / 3 * y + rng.normal(0, 0.15, samples)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), y


def _shapes(samples: int, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(samples) % 4
    images = rng.normal(0, 0.35, (samples, 3, 12, 12))
    rows, columns = np.mgrid[:12, :12]
    for image, kind in zip(images, y, strict=True):
        row, column = rng.integers(4, 8, 2)
        down, across = np.abs(rows - row), np.abs(columns - column)
        drawn = {
            0: (down <= 3) & (across == 0),
            1: ((down <= 3) & (across == 0)) | ((across <= 3) & (down == 0)),
            2: np.maximum(down, across) == 3,
            3: down**2 + across**2 <= 6,
        }[int(kind)]
        image[:, drawn] += rng.uniform(0.7, 1.3, (3, 1))
    return images, y


def _waves(samples: int, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(samples) % 4
    t = np.arange(32)[None, :, None]
    phase = rng.uniform(0, 2 * np.pi, (samples, 1, 2))
    frequency = 0.2 + 0.2 * y[:, None, None] + rng.normal(0, 0.02, (samples, 1, 1))
    return np.sin(frequency * t + phase) + rng.normal(0, 0.2, (samples, 32, 2)), y


def _words(samples: int, classes: int, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(samples) % classes
    habits = rng.dirichlet(np.full(12, 0.3), (classes, 12)).cumsum(-1)
    tokens = np.empty((samples, 20), np.int64)
    tokens[:, 0] = rng.integers(0, 12, samples)
    for i in range(1, 20):
        chance = rng.random((samples, 1))
        tokens[:, i] = np.minimum((habits[y, tokens[:, i - 1]] < chance).sum(1), 11)
    return tokens, y


# ---- the project's own networks, spoiled

NetFault = Literal[
    "none", "sigmoid", "tanh", "gain", "weight_std", "constant", "bias", "softmax", "no_grad", "momentum", "eval_scale",
]  # fmt: skip


@torch.no_grad()
def _spoil(net: nn.Module, fault: str, severity: float) -> None:
    layers = [part for part in net.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
    for layer in layers:
        if fault in ("gain", "tanh", "sigmoid"):
            layer.weight.mul_(severity)
        elif fault == "weight_std":
            layer.weight.normal_(0, severity)
        elif fault == "constant":
            layer.weight.fill_(severity)
    for norm in norms:
        if fault == "momentum":
            norm.momentum = severity
    if fault == "bias":
        for part in norms or layers[:-1]:
            part.bias.add_(severity)
    if fault in ("tanh", "sigmoid"):
        for name, part in list(net.named_modules()):
            if isinstance(part, nn.ReLU):
                owner, _, last = name.rpartition(".")
                setattr(net.get_submodule(owner), last, nn.Tanh() if fault == "tanh" else nn.Sigmoid())


class FaultyCNN(CNN):
    """The project's CNN with a fault.

    Args:
        fault: `sigmoid` and `tanh` take the place of ReLU, the weights times `severity`; `gain` only multiplies them;
            `weight_std` draws them anew; `constant` makes them all `severity`; `bias` adds to the biases before the
            ReLUs; `softmax` gives probabilities; `no_grad` trains the last layer only; `momentum` is that of the
            running statistics; `eval_scale` multiplies the images in evaluation.
        severity: How much.
    """

    def __init__(self, fault: NetFault = "none", severity: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fault, self.severity = fault, severity
        _spoil(self, fault, severity)

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "eval_scale" and not self.training:
            x = x * self.severity
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.fault != "no_grad"):
            x = self.features(x)
        x = self.head(x)
        return x.softmax(1) if self.fault == "softmax" else x


class FaultyMLP(MLP):
    """The project's MLP with a fault; see `FaultyCNN`."""

    def __init__(self, fault: NetFault = "none", severity: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fault, self.severity = fault, severity
        _spoil(self, fault, severity)

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "eval_scale" and not self.training:
            x = x * self.severity
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.fault != "no_grad"):
            x = self.layers[:-1](x)
        x = self.layers[-1](x)
        return x.softmax(1) if self.fault == "softmax" else x


# ---- the project's own images, spoiled

ImageFault = Literal[
    "none", "raw", "scaled", "missing", "outliers", "sorted", "slow", "noisy", "random", "rare", "val_labels",
    "val_inverted",
]  # fmt: skip


class SlowBatches(Batches):
    """Each batch takes `seconds` longer."""

    seconds = 0.0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        for batch in super().__iter__():
            time.sleep(self.seconds)
            yield batch


class FaultyImages(ImageArrays):
    """Image arrays with a fault.

    Args:
        fault: `raw` leaves the pixels at 0 to 255 and `scaled` multiplies the normalised ones; `missing` and
            `outliers` spoil one image in `severity` of a batch; `sorted` gives them class by class; `slow` takes
            `severity` seconds a batch; `noisy` draws that share of the training labels anew, and `random` all labels;
            `rare` keeps that share of the upper half of the classes; `val_labels` turns the validation labels by one,
            `val_inverted` its pixels.
        severity: How much.
    """

    def __init__(self, fault: ImageFault = "none", severity: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fault, self.severity = fault, severity

    def load(self) -> None:
        super().load()
        rng = torch.Generator().manual_seed(5)
        classes = len(self._facts["class_names"])
        if self.fault == "random":
            self.labels = torch.randint(classes, self.labels.shape, generator=rng)
        elif self.fault == "noisy":
            train = self.parts["train"]
            noisy = train[torch.rand(len(train), generator=rng) < self.severity]
            self.labels = self.labels.clone()
            self.labels[noisy] = torch.randint(classes, noisy.shape, generator=rng)
        elif self.fault == "rare":
            for part, indices in self.parts.items():
                kept = (self.labels[indices] < classes // 2) | (torch.rand(len(indices), generator=rng) < self.severity)
                self.parts[part] = indices[kept]
        elif self.fault == "sorted":
            train = self.parts["train"]
            self.parts["train"] = train[self.labels[train].argsort(stable=True)]

    def train_dataloader(self) -> Batches:
        made = super().train_dataloader()
        if self.fault == "sorted":
            return Batches(*self.part("train"), self.batch_size, None, *self.ranks)
        if self.fault == "slow":
            made.__class__ = SlowBatches
            made.seconds = self.severity  # type: ignore[attr-defined]
        return made

    def val_dataloader(self) -> Batches:
        made = super().val_dataloader()
        if self.fault == "val_labels":
            made.labels = (made.labels + 1) % self.num_classes
        elif self.fault == "val_inverted":
            made.inputs = 255 - made.inputs
        return made

    def _normalised(self, x: Tensor) -> Tensor:
        if self.fault == "raw":
            return x
        x = super()._normalised(x)
        if self.fault == "scaled":
            return x * self.severity
        if self.trainer and self.trainer.training and self.fault in ("missing", "outliers"):
            chosen = torch.rand(len(x)) < 1 / self.severity
            x[chosen] = x[chosen] * 3000 if self.fault == "outliers" else float("nan")
        return x


class FaultyDigits(FaultyImages, Digits):
    """The project's digits with a fault."""


class Pictures(FaultyImages):
    """2,000 pictures of four shapes in colour, 12 x 12 pixels, drawn."""

    def load_train(self) -> tuple[Tensor, Tensor, list[str]]:
        x, y = _shapes(2000, np.random.default_rng(11))
        return (
            torch.from_numpy((x * 64 + 96).clip(0, 255).astype(np.uint8)),
            torch.from_numpy(y),
            ["bar", "cross", "frame", "disc"],
        )
