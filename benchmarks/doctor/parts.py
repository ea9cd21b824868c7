"""Small networks and data sets, and the faults that can be built into them by a key.

They are strangers to the project on purpose: a LightningModule and a LightningDataModule as people write them.
"""

import functools
import math
import time
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from sklearn import datasets
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "none": nn.Identity,
}


class Numbers(Dataset):
    """Inputs and labels in memory, one sample at a time."""

    def __init__(self, x: Tensor, y: Tensor, seconds: float = 0.0) -> None:
        self.x, self.y, self.seconds = x, y, seconds

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if self.seconds:
            time.sleep(self.seconds)
        return self.x[i], self.y[i]


class Data(LightningDataModule):
    """A small set, in DataLoaders.

    Args:
        name: `digits` (images, or rows of pixels), `cancer` and `wine` (tables), `blobs` (a table, drawn), `circles`
            (two rings in the plane), `tokens` (sequences: which of the tokens was most frequent).
        samples: Of drawn sets.
        features: Of `blobs`.
        classes: Of `blobs` and `tokens`.
        images: Digits as images and not as rows.
        normalize: Bring the inputs to mean 0 and standard deviation 1.
        unit: Bring the inputs to [0, 1] instead.
        train_share: Of the training samples, how many are used.
        label_noise: Share of the training labels that are drawn anew.
        random_labels: Labels that have nothing to do with the inputs.
        rare: The share of samples that is kept of the higher half of the classes (of two: of the second one).
        overlap: Noise that is added to the inputs of drawn sets.
        sample_seconds: What loading a sample takes longer.
        batch_nan: One value of a feature in so many samples is missing.
        outliers: The inputs of one sample in so many are a thousand times as large.
        val_shift: Labels of the validation part that are turned by one class.
        val_raw: Inputs of the validation part that are treated differently.
        sort: Training data in the order of their labels.
    """

    def __init__(
        self,
        name: Literal["digits", "cancer", "wine", "blobs", "circles", "tokens"] = "digits",
        samples: int = 1200,
        features: int = 20,
        classes: int = 4,
        images: bool = False,
        batch_size: int = 32,
        num_workers: int = 0,
        shuffle: bool = True,
        normalize: bool = True,
        unit: bool = False,
        scale: float = 1.0,
        shift: float = 0.0,
        train_share: float = 1.0,
        label_noise: float = 0.0,
        random_labels: bool = False,
        rare: float = 1.0,
        overlap: float = 0.0,
        sample_seconds: float = 0.0,
        batch_nan: int = 0,
        outliers: int = 0,
        val_shift: bool = False,
        val_raw: bool = False,
        sort: bool = False,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.o = self.hparams

    @property
    def num_classes(self) -> int:
        return {"digits": 10, "cancer": 2, "wine": 3, "circles": 2}.get(self.o.name, self.o.classes)

    @property
    def shape(self) -> tuple[int, ...]:
        if self.o.name == "digits":
            return (1, 8, 8) if self.o.images else (64,)
        return {"cancer": (30,), "wine": (13,), "circles": (2,), "tokens": (16,)}.get(self.o.name, (self.o.features,))

    def _load(self) -> tuple[np.ndarray, np.ndarray]:
        o = self.o
        if o.name in ("digits", "cancer", "wine"):
            load = {"digits": datasets.load_digits, "cancer": datasets.load_breast_cancer, "wine": datasets.load_wine}
            return load[o.name](return_X_y=True)
        if o.name == "blobs":
            return datasets.make_classification(
                o.samples,
                o.features,
                n_informative=max(4, o.features // 2),
                n_redundant=0,
                n_classes=o.classes,
                class_sep=1.5,
                flip_y=0,
                random_state=0,
            )
        if o.name == "circles":
            return datasets.make_circles(o.samples, noise=0.08 + o.overlap, factor=0.4, random_state=0)
        generator = np.random.default_rng(0)
        tokens = generator.integers(0, o.classes, (o.samples * 3, 16))
        counts = np.stack([(tokens == k).sum(1) for k in range(o.classes)], 1)
        ordered = np.sort(counts, 1)
        clear = ordered[:, -1] > ordered[:, -2] + 1
        return tokens[clear][: o.samples], counts.argmax(1)[clear][: o.samples]

    def setup(self, stage: str) -> None:
        o = self.o
        x, y = self._load()
        generator = np.random.default_rng(1)
        if o.rare < 1:
            first = self.num_classes // 2
            keep = (y < first) | (generator.random(len(y)) < o.rare)
            x, y = x[keep], y[keep]
        if o.random_labels:
            y = generator.integers(0, self.num_classes, len(y))
        parts = train_test_split(x, y, test_size=0.3, random_state=o.split_seed, stratify=y)
        x_train, x_val, y_train, y_val = parts
        if o.train_share < 1:
            chosen = generator.permutation(len(x_train))[: max(self.num_classes, int(o.train_share * len(x_train)))]
            x_train, y_train = x_train[chosen], y_train[chosen]
        if o.label_noise:
            noisy = generator.random(len(y_train)) < o.label_noise
            y_train = np.where(noisy, generator.integers(0, self.num_classes, len(y_train)), y_train)
        if o.sort:
            order = np.argsort(y_train, kind="stable")
            x_train, y_train = x_train[order], y_train[order]
        if o.name == "tokens":
            tensors = [torch.from_numpy(part).long() for part in (x_train, x_val)]
        else:
            tensors = self._values(x_train.astype(np.float32), x_val.astype(np.float32), generator)
        y_val = (y_val + 1) % self.num_classes if o.val_shift else y_val
        self.train_set = Numbers(tensors[0], torch.from_numpy(y_train).long(), o.sample_seconds)
        self.val_set = Numbers(tensors[1], torch.from_numpy(y_val).long())

    def _values(self, train: np.ndarray, val: np.ndarray, generator: Any) -> list[Tensor]:
        o = self.o
        if o.unit:
            low, high = train.min(0), train.max(0)
            train, val = ((part - low) / np.where(high > low, high - low, 1) for part in (train, val))
        elif o.normalize:
            center, spread = (train.mean(), train.std()) if o.name == "digits" else (train.mean(0), train.std(0))
            train, val = ((part - center) / np.maximum(spread, 1e-6) for part in (train, val))
        train, val = train * o.scale + o.shift, val * o.scale + o.shift
        if o.val_raw:
            val = -val[:, ::-1] * 3 + 2
        if o.batch_nan:
            train[o.batch_nan :: o.batch_nan, 3] = np.nan
        if o.outliers:
            train[o.outliers :: o.outliers] *= 1000
        shape = (-1, *self.shape)
        return [torch.from_numpy(np.ascontiguousarray(part, np.float32)).reshape(shape) for part in (train, val)]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.train_set,
            self.o.batch_size,
            shuffle=self.o.shuffle and not self.o.sort,
            num_workers=self.o.num_workers,
            drop_last=True,
            persistent_workers=self.o.num_workers > 0,
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, 256)


class Net(nn.Module):
    """An MLP, a CNN or a transformer encoder, by name.

    Args:
        kind: Which.
        shape: Of an input.
        classes: Outputs.
        width, depth: Units or channels of a layer, and hidden layers or blocks.
        activation, norm, dropout: Between the layers.
        init_scale: The weights at the start, times this.
        init_std: Drawn with this standard deviation instead; 0 leaves them as torch draws them.
        constant: All weights alike at the start.
        bias_init: Of hidden layers.
        softmax: Probabilities as output.
        bn_momentum: Of running statistics.
        detach: No gradient for the first block.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        kind: Literal["mlp", "cnn", "transformer"] = "mlp",
        width: int = 64,
        depth: int = 2,
        activation: Literal["relu", "tanh", "sigmoid", "gelu", "leaky_relu", "none"] = "relu",
        norm: Literal["none", "batch", "layer"] = "none",
        dropout: float = 0.0,
        init_scale: float = 1.0,
        init_std: float = 0.0,
        constant: bool = False,
        bias_init: float = 0.0,
        softmax: bool = False,
        bn_momentum: float = 0.1,
        detach: bool = False,
    ) -> None:
        super().__init__()
        self.kind, self.softmax, self.detach = kind, softmax, detach
        between = {"activation": ACTIVATIONS[activation], "norm": norm, "dropout": dropout, "momentum": bn_momentum}
        if kind == "mlp":
            blocks, size = self._dense(math.prod(shape), width, depth, **between)
        elif kind == "cnn":
            blocks, size = self._convolutions(shape[0], width, depth, **between)
        else:
            tokens = len(shape) == 1 and shape[0] == 16
            self.embed: nn.Module = (
                nn.Embedding(classes, width) if tokens else nn.Linear(shape[-1] if len(shape) > 1 else 8, width)
            )
            length = shape[-2] if len(shape) > 1 else 16 if tokens else shape[0] // 8
            self.position = nn.Parameter(torch.randn(length, width) * 0.02)
            act = ACTIVATIONS[activation]() if activation in ("gelu", "relu") else F.relu
            layer = functools.partial(nn.TransformerEncoderLayer, width, 4, 2 * width, dropout, act, batch_first=True)
            blocks, size = [layer(norm_first=norm != "none") for _ in range(depth)], width
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(size, classes)
        self._start(init_scale, init_std, constant, bias_init)

    def _dense(
        self, size: int, width: int, depth: int, activation: type[nn.Module], norm: str, dropout: float, momentum: float
    ) -> tuple[list[nn.Module], int]:
        blocks: list[nn.Module] = [nn.Flatten()]
        for _ in range(depth):
            layers = [nn.Linear(size, width), *self._norm(norm, width, momentum, False)]
            blocks.append(nn.Sequential(*layers, activation(), nn.Dropout(dropout)))
            size = width
        return blocks, size

    def _convolutions(
        self, size: int, width: int, depth: int, activation: type[nn.Module], norm: str, dropout: float, momentum: float
    ) -> tuple[list[nn.Module], int]:
        blocks: list[nn.Module] = []
        for i in range(depth):
            layers = [nn.Conv2d(size, width, 3, padding=1), *self._norm(norm, width, momentum, True), activation()]
            blocks.append(nn.Sequential(*layers, nn.MaxPool2d(2) if i < 2 else nn.Identity(), nn.Dropout(dropout)))
            size = width
        return [*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten()], 4 * width

    @staticmethod
    def _norm(norm: str, width: int, momentum: float, images: bool) -> list[nn.Module]:
        if norm == "batch":
            return [(nn.BatchNorm2d if images else nn.BatchNorm1d)(width, momentum=momentum)]
        if norm == "layer":
            return [nn.GroupNorm(1, width) if images else nn.LayerNorm(width)]
        return []

    @torch.no_grad()
    def _start(self, scale: float, std: float, constant: bool, bias: float) -> None:
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                if std:
                    part.weight.normal_(0, std)
                part.weight.mul_(scale)
                if constant:
                    part.weight.fill_(0.01)
                    if part.bias is not None:
                        part.bias.zero_()
                if part.bias is not None and bias and part is not self.head:
                    part.bias.add_(bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "transformer":
            if x.is_floating_point():
                x = x.flatten(0, 0).reshape(len(x), -1, 8)
            x = self.embed(x) + self.position
        for i, block in enumerate(self.blocks):
            x = block(x)
            if self.detach and i == len(self.blocks) // 2:
                x = x.detach()
        if self.kind == "transformer":
            x = x.mean(1)
        x = self.head(x)
        return x.softmax(1) if self.softmax else x


class Task(LightningModule):
    """A classifier as people write it.

    Args:
        shape, num_classes: Of the data.
        net: What `Net` takes beside these.
        loss_scale: The loss times this.
        penalty: Of the weights' squares, in the loss.
        only: The optimizer gets the parameters whose names begin with this.
        freeze: Parameters whose names begin with this are frozen, as they should be.
        class_weights: `balanced` weights the classes by their rarity.
        eval_bug: A factor on the inputs that is there in evaluation only.
        new_labels: Labels of the training are drawn anew in each step.
        sqrt_bug: A square root of 0 in the loss.
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (64,),
        num_classes: int = 10,
        loss_scale: float = 1.0,
        penalty: float = 0.0,
        label_smoothing: float = 0.0,
        only: str = "",
        freeze: str = "",
        class_weights: Literal["none", "balanced"] = "none",
        eval_bug: float = 1.0,
        new_labels: bool = False,
        sqrt_bug: bool = False,
        **net: Any,
    ) -> None:
        super().__init__()
        self.net = Net(shape=tuple(shape), classes=num_classes, **net)
        self.loss_scale, self.penalty, self.smoothing, self.only = loss_scale, penalty, label_smoothing, only
        self.class_weights, self.eval_bug, self.new_labels, self.sqrt_bug = (
            class_weights,
            eval_bug,
            new_labels,
            sqrt_bug,
        )
        self.num_classes = num_classes
        for name, parameter in self.named_parameters():
            if freeze and name.startswith(freeze):
                parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x if self.training or self.eval_bug == 1 else x * self.eval_bug)

    def parameters(self, recurse: bool = True) -> Any:
        """What an optimizer made by LightningCLI gets."""
        return iter(self.parameters_to_train()) if getattr(self, "only", "") else super().parameters(recurse)

    def parameters_to_train(self) -> list[nn.Parameter]:
        return [p for name, p in self.named_parameters() if name.startswith(self.only) and p.requires_grad]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        if self.new_labels:
            y = torch.randint(self.num_classes, y.shape)
        logits = self(x)
        loss = F.cross_entropy(logits, y, weight=self._weights(), label_smoothing=self.smoothing) * self.loss_scale
        if self.penalty:
            loss = loss + self.penalty * sum(p.square().sum() for p in self.parameters())
        if self.sqrt_bug and batch_idx > 5:
            loss = loss + (logits[:, 0] * 0).sqrt().mean()
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def _weights(self) -> Tensor | None:
        if self.class_weights == "none":
            return None
        counts = torch.bincount(self.trainer.datamodule.train_set.y, minlength=self.num_classes)  # type: ignore[attr-defined]
        return len(self.trainer.datamodule.train_set.y) / (self.num_classes * counts.clamp(min=1).float())  # type: ignore[attr-defined]

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.log("val/loss", F.cross_entropy(logits, y), batch_size=len(y))
        self.log("val/acc", (logits.argmax(1) == y).float().mean(), batch_size=len(y))
