"""Networks, a task and data sets of the unseen cases, with faults that a key builds in.

Sequence models, deeper convolutional networks and tables that the other two sets of cases lack.
"""

import math
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from sklearn import datasets
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.doctor.held_parts import Loaders, Samples, _busy

Kind = Literal["mlp", "cnn", "resnet", "conv1d", "lstm", "gru", "bigru", "encoder"]
Activation = Literal["relu", "tanh", "sigmoid", "gelu", "silu", "linear"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "linear": nn.Identity,
}

# ---- networks


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut: `(N, C, H, W)` to the same."""

    def __init__(self, width: int, norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=not norm)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=not norm)
        self.norm1, self.norm2 = (nn.BatchNorm2d(width) if norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(h)))


def _dense(inputs: int, width: int, depth: int, activation: str, norm: bool, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for i in range(depth):
        layers += [nn.Linear(width if i else inputs, width), *([nn.BatchNorm1d(width)] if norm else [])]
        layers += [ACTIVATIONS[activation](), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


def _convolutions(
    dims: int, channels: int, width: int, depth: int, activation: str, norm: bool, dropout: float
) -> nn.Sequential:
    conv, batch_norm, pool = (
        (nn.Conv1d, nn.BatchNorm1d, nn.MaxPool1d) if dims == 1 else (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d)
    )
    size, layers = (5 if dims == 1 else 3), list[nn.Module]()
    for i in range(depth):
        layers += [conv(width if i else channels, width, size, padding=size // 2)]  # type: ignore[list-item]
        layers += [*([batch_norm(width)] if norm else []), ACTIVATIONS[activation]()]
        layers += [pool(2)] if i in (1, 3) else []
    mean = nn.AdaptiveAvgPool1d(1) if dims == 1 else nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, mean, nn.Flatten(), nn.Dropout(dropout))


class Sequences(nn.Module):
    """An LSTM, a GRU or a transformer encoder: tokens `(N, T)` or a series `(N, T, C)` to features `(N, width)`.

    The features are the mean over the tokens that are not padding (0), and over all steps of a series.
    """

    def __init__(
        self,
        kind: str,
        inputs: int,
        length: int,
        tokens: bool,
        width: int,
        depth: int,
        dropout: float,
        norm_first: bool,
    ) -> None:
        super().__init__()
        self.embed: nn.Module = nn.Embedding(inputs, width, padding_idx=0) if tokens else nn.Linear(inputs, width)
        self.tokens, self.attends, self.width = tokens, kind == "encoder", width
        if self.attends:
            self.position = nn.Parameter(torch.randn(length, width) * 0.02)
            layer = nn.TransformerEncoderLayer(
                width, 4, 2 * width, dropout, batch_first=True, norm_first=norm_first, activation="gelu"
            )
            self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        else:
            cells = nn.LSTM if kind == "lstm" else nn.GRU
            both, between = kind == "bigru", dropout if depth > 1 else 0.0
            self.width *= 2 if both else 1
            self.cells = cells(width, width, depth, batch_first=True, dropout=between, bidirectional=both)

    def forward(self, x: Tensor) -> Tensor:
        padding = x == 0 if self.tokens else torch.zeros(x.shape[:2], dtype=torch.bool)
        x = self.embed(x)
        x = self.encoder(x + self.position, src_key_padding_mask=padding) if self.attends else self.cells(x)[0]
        kept = (~padding)[..., None].float()
        return (x * kept).sum(1) / kept.sum(1)  # a text of padding alone has no mean


# ---- the task

Fault = Literal[
    "none", "focal", "sum", "shuffled_inputs", "softmax", "biases_only", "no_grad", "eval_tokens",
    "negative_weights",
]  # fmt: skip


class Baseline(LightningModule):
    """A classifier with a loss that is a module.

    Args:
        kind: The network.
        shape: Of an input: `(F,)`, `(C, H, W)` or `(T, C)`; `(T, 0)` are tokens.
        vocabulary: Number of different tokens.
        depth: Layers, blocks of `resnet`.
        norm: Batch normalisation; in `encoder` the layer norm comes before attention.
        input_norm: Batch normalisation of the inputs, as the first layer.
        bce: One logit and binary cross-entropy.
        gain: The weights at the start, times this; `recurrent_gain` only those from step to step.
        weight_std: Draw them with this standard deviation; 0 leaves them as torch draws them.
        constant: All weights have this value at the start; None leaves them as torch draws them.
        bias: Added at the start to the biases of linear and convolutional layers, but the last.
        norm_bias: Added at the start to those of batch normalisation.
        momentum: Of the running statistics of batch normalisation.
        frozen: Parameters whose names begin with this are frozen, as they should be.
        fault, severity: What is wrong with the task, and how much.
    """

    def __init__(
        self,
        kind: Kind = "mlp",
        shape: tuple[int, ...] = (64,),
        num_classes: int = 10,
        vocabulary: int = 16,
        width: int = 32,
        depth: int = 2,
        activation: Activation = "relu",
        norm: bool = False,
        input_norm: bool = False,
        dropout: float = 0.0,
        bce: bool = False,
        label_smoothing: float = 0.0,
        gain: float = 1.0,
        recurrent_gain: float = 1.0,
        weight_std: float = 0.0,
        constant: float | None = None,
        bias: float = 0.0,
        norm_bias: float = 0.0,
        momentum: float = 0.1,
        frozen: str = "",
        fault: Fault = "none",
        severity: float = 1.0,
    ) -> None:
        super().__init__()
        shape = tuple(shape)
        tokens = len(shape) == 2 and shape[1] == 0
        self.features = width
        self.input_norm: nn.Module = nn.Identity()
        if input_norm:
            self.input_norm = nn.BatchNorm2d(shape[0]) if len(shape) == 3 else nn.BatchNorm1d(shape[0])
        if kind == "mlp":
            self.body: nn.Module = _dense(math.prod(shape), width, depth, activation, norm, dropout)
        elif kind in ("cnn", "conv1d"):
            images = kind == "cnn"
            channels = shape[0 if images else 1]
            self.body = _convolutions(1 + images, channels, width, depth, activation, norm, dropout)
        elif kind == "resnet":
            blocks = [ResidualBlock(width, norm) for _ in range(depth)]
            self.body = nn.Sequential(
                nn.Conv2d(shape[0], width, 3, stride=2, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                nn.Dropout(dropout),
            )  # fmt: skip
        else:
            inputs = vocabulary if tokens else shape[1]
            self.body = Sequences(kind, inputs, shape[0], tokens, width, depth, dropout, norm)
            self.features = self.body.width
        self.head = nn.Linear(self.features, 1 if bce else num_classes)
        self.criterion = nn.BCEWithLogitsLoss() if bce else nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        self.kind, self.bce, self.vocabulary, self.fault, self.severity = kind, bce, vocabulary, fault, severity
        self._start(gain, recurrent_gain, weight_std, constant, bias, norm_bias, momentum)
        for name, parameter in self.named_parameters():
            if frozen and name.startswith(frozen):
                parameter.requires_grad_(False)

    @torch.no_grad()
    def _start(
        self, gain: float, recurrent_gain: float, std: float, constant: float | None, bias: float, norm_bias: float,
        momentum: float,
    ) -> None:  # fmt: skip
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d):
                if std:
                    part.weight.normal_(0, std)
                if constant is not None:
                    part.weight.fill_(constant)
                part.weight.mul_(gain)
                if self.fault == "negative_weights" and part is not self.head:
                    part.weight.copy_(-part.weight.abs())
                if part.bias is not None and part is not self.head:
                    part.bias.add_(bias)
            elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.bias.add_(norm_bias)
                part.momentum = momentum
        for name, parameter in self.named_parameters():
            if "weight_hh" in name:
                parameter.mul_(recurrent_gain)
            elif std and "in_proj_weight" in name:
                parameter.normal_(0, std)

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "eval_tokens" and not self.training:
            x = torch.where(x > 0, x % (self.vocabulary - 1) + 1, x)
        x = self.input_norm(x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.fault != "no_grad"):
            x = self.body(x.transpose(1, 2) if self.kind == "conv1d" else x)
        x = self.head(x)
        return x.softmax(1) if self.fault == "softmax" else x

    def on_train_start(self) -> None:
        if self.fault == "biases_only":  # a filter that should have set the weight decay of the biases apart
            for group in self.trainer.optimizers[0].param_groups:
                group["params"] = [parameter for parameter in group["params"] if parameter.ndim == 1]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        if self.fault == "shuffled_inputs":
            x = x[torch.randperm(len(x))]
        loss = self._loss(self(x), y)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def _loss(self, out: Tensor, y: Tensor) -> Tensor:
        if self.fault == "focal":  # its slope is infinite where the probability is 1
            chance = out.softmax(1).gather(1, y[:, None])
            return ((1 - chance) ** self.severity * F.cross_entropy(out, y, reduction="none")[:, None]).mean()
        loss: Tensor = self.criterion(out[:, 0], y.float()) if self.bce else self.criterion(out, y)
        return loss * len(y) * self.severity if self.fault == "sum" else loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        out = self(x)
        said = (out[:, 0] > 0).long() if self.bce else out.argmax(1)
        loss = self.criterion(out[:, 0], y.float()) if self.bce else F.cross_entropy(out, y)
        self.log("val/loss", loss, batch_size=len(y))
        self.log("val/acc", (said == y).float().mean(), batch_size=len(y))


# ---- data in memory, in DataLoaders

Name = Literal["photos", "digits", "rows", "bumps", "topics", "roll", "friedman", "many", "diabetes", "iris"]
Wrong = Literal[
    "none", "empty", "few", "noisy", "random", "rare", "sorted", "slow_batch", "busy_sample", "raw", "wide_column",
    "val_inverted", "leak_token",
]  # fmt: skip


class Assorted(Loaders):
    """A small set with at most one fault.

    Args:
        name: `photos` (3 x 16 x 16 patches of scikit-learn's two photographs: which of them); `digits` (1 x 8 x 8) and
            `rows` (the same as series of 8 x 8); `bumps` (48 x 1 series: which of five pulses); `topics` (up to 24
            tokens out of 15, 0 is padding: each of 8 classes has its favourites); `roll` and `friedman` (drawn tables
            whose target is cut into equal classes); `many` (a drawn table of 20 classes); `diabetes` (its target above
            or below the median); `iris`.
        samples: Of drawn sets.
        normalize: Bring the inputs to mean 0 and standard deviation 1, column by column or channel by channel.
        unit: Bring them to [0, 1] instead.
        fault, severity: What is wrong with the data, and how much.
    """

    def __init__(
        self,
        name: Name = "photos",
        samples: int = 1500,
        batch_size: int = 32,
        num_workers: int = 0,
        shuffle: bool = True,
        normalize: bool = True,
        unit: bool = False,
        fault: Wrong = "none",
        severity: float = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.o: Any = self.hparams

    @property
    def num_classes(self) -> int:
        return {"photos": 2, "digits": 10, "rows": 10, "bumps": 5, "topics": 8, "roll": 6,
                "friedman": 3, "many": 20, "diabetes": 2, "iris": 3}[self.o.name]  # fmt: skip

    @property
    def shape(self) -> tuple[int, ...]:
        return {"photos": (3, 16, 16), "digits": (1, 8, 8), "rows": (8, 8), "bumps": (48, 1),
                "topics": (24, 0), "roll": (3,), "friedman": (10,), "many": (30,), "diabetes": (10,),
                "iris": (4,)}[self.o.name]  # fmt: skip

    def _load(self, rng: Any) -> tuple[np.ndarray, np.ndarray]:
        name, n, classes = self.o.name, self.o.samples, self.num_classes
        if name in ("digits", "rows"):
            return datasets.load_digits(return_X_y=True)
        if name == "iris":
            return datasets.load_iris(return_X_y=True)
        if name == "many":
            return datasets.make_classification(
                n, 30, n_informative=15, n_redundant=5, n_classes=20, n_clusters_per_class=1, class_sep=2.5, flip_y=0,
                random_state=9,
            )  # fmt: skip
        drawn = {"photos": _patches, "bumps": _bumps, "topics": _topics}
        if name in drawn:
            return drawn[name](n, rng)
        made: dict[str, Any] = {
            "roll": lambda: datasets.make_swiss_roll(n, noise=0.3, random_state=9),
            "friedman": lambda: datasets.make_friedman1(n, noise=0.5, random_state=9),
            "diabetes": lambda: datasets.load_diabetes(return_X_y=True, scaled=False),
        }
        x, target = made[name]()
        return x, np.searchsorted(np.quantile(target, np.linspace(0, 1, classes + 1)[1:-1]), target)

    def setup(self, stage: str) -> None:
        o = self.o
        rng = np.random.default_rng(21)
        x, y = self._load(rng)
        if o.fault == "random":
            y = rng.integers(0, self.num_classes, len(y))
        x_train, x_val, y_train, y_val = train_test_split(x, y, test_size=0.3, random_state=21, stratify=y)
        chosen = np.arange(len(y_train))
        if o.fault == "rare":
            chosen = chosen[(y_train < self.num_classes // 2) | (rng.random(len(y_train)) < o.severity)]
        elif o.fault == "few":
            chosen = rng.permutation(chosen)[: int(o.severity * len(chosen))]
        elif o.fault == "sorted":
            chosen = np.argsort(y_train, kind="stable")
        x_train, y_train = x_train[chosen], y_train[chosen]
        if o.fault == "noisy":
            wrong = rng.random(len(y_train)) < o.severity
            y_train = np.where(wrong, rng.integers(0, self.num_classes, len(y_train)), y_train)
        if o.name == "topics":
            parts = [self._tokens(x_train.copy(), y_train, rng), x_val]
            tensors = [torch.from_numpy(part).long() for part in parts]
        else:
            parts = self._values(x_train.astype(np.float32), x_val.astype(np.float32))
            tensors = [torch.from_numpy(np.ascontiguousarray(v, np.float32)).reshape(-1, *self.shape) for v in parts]
        cost = (lambda: _busy(int(o.severity))) if o.fault == "busy_sample" else None
        self.train_set = Samples(tensors[0], torch.from_numpy(y_train).long(), cost)
        self.val_set = Samples(tensors[1], torch.from_numpy(y_val).long())

    def _tokens(self, x: np.ndarray, y: np.ndarray, rng: Any) -> np.ndarray:
        if self.o.fault == "empty":
            x[rng.random(len(x)) < self.o.severity] = 0
        elif self.o.fault == "leak_token":  # ten copies of a token that is the label
            x[:, -10:] = y[:, None] + 1
        return x

    def _values(self, train: np.ndarray, val: np.ndarray) -> list[np.ndarray]:
        o = self.o
        parts = [train, val]
        if o.fault == "raw":
            return parts
        axis = (
            (0, 2, 3) if train.ndim == 4 else None if o.name in ("digits", "rows") else (0, 1) if train.ndim == 3 else 0
        )
        if o.unit:
            low, high = train.min(axis, keepdims=True), train.max(axis, keepdims=True)
            parts = [(part - low) / (high - low) for part in parts]
        elif o.normalize:
            center, spread = train.mean(axis, keepdims=True), train.std(axis, keepdims=True)
            parts = [(part - center) / np.maximum(spread, 1e-6) for part in parts]
        if o.fault == "wide_column":
            for part in parts:
                part[:, -1] *= o.severity
        elif o.fault == "val_inverted":
            parts[1] = -parts[1]
        return parts


def _patches(samples: int, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    photos = [datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    images = np.empty((samples, 3, 16, 16), np.float32)
    y = np.arange(samples) % 2
    for i in range(samples):
        photo = photos[int(y[i])]
        row, column = rng.integers(photo.shape[0] - 32), rng.integers(photo.shape[1] - 32)
        images[i] = photo[row : row + 32 : 2, column : column + 32 : 2].transpose(2, 0, 1)
    return images, y


def _bumps(samples: int, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(samples) % 5
    t = (np.arange(48)[None] - rng.uniform(12, 36, (samples, 1))) / rng.uniform(5, 9, (samples, 1))
    inside = np.abs(t) < 1
    pulses = [np.ones_like(t), 1 - np.abs(t), (t + 1) / 2, (1 - t) / 2, np.cos(3 * np.pi * t)]
    x = np.where(inside, np.choose(y[:, None], pulses), 0) * rng.uniform(0.8, 1.4, (samples, 1))
    return (x + rng.normal(0, 0.12, x.shape))[..., None], y


def _topics(samples: int, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(samples) % 8
    habits = rng.dirichlet(np.full(15, 0.5), 8).cumsum(1)
    tokens = 1 + np.minimum((habits[y][:, None] < rng.random((samples, 24))[..., None]).sum(2), 14)
    lengths = rng.integers(12, 25, samples)
    return np.where(np.arange(24)[None] < lengths[:, None], tokens, 0), y
