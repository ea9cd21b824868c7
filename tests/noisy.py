"""Somebody else's module and data, as they are usually written: an ordinary DataLoader, and chance everywhere."""

import random
import time
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Points that are moved a little whenever one is asked for, by the numbers of three random generators."""

    def __init__(self, count: int, pause: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(count)
        self.points = torch.randn(count, 8, generator=generator)
        self.labels = (self.points[:, 0] * self.points[:, 1] > 0).long()
        self.pause = pause

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        time.sleep(self.pause)
        noise = 0.1 * torch.randn(8) + 0.1 * float(np.random.rand()) + 0.1 * random.random()
        return self.points[i] + noise, self.labels[i]


class NoisyData(LightningDataModule):
    """Shuffled batches; `pause` is how many seconds each training sample takes."""

    def __init__(
        self,
        train: int = 22,
        val: int = 6,
        batch_size: int = 4,
        num_workers: int = 0,
        persistent_workers: bool = False,
        pause: float = 0.0,
    ) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.batch_size = batch_size
        self.workers: dict[str, Any] = {"num_workers": num_workers, "persistent_workers": persistent_workers}
        self.pause = pause

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Samples(self.train, self.pause), self.batch_size, shuffle=True, **self.workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Samples(self.val), self.batch_size, **self.workers)


class Noisy(LightningModule):
    """Two layers with running statistics and dropout; logs in each of Lightning's ways."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))
        self.train_acc, self.val_acc = MulticlassAccuracy(2), MulticlassAccuracy(2)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        self.train_acc(logits, y)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        self.log("train/acc", self.train_acc, on_step=True, on_epoch=True)
        self.log("train/largest", logits.max(), on_step=False, on_epoch=True, reduce_fx="max")
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        logits = self.net(x)
        self.val_acc(logits, y)
        self.log("val/loss", F.cross_entropy(logits, y), sync_dist=True)
        self.log("val/acc", self.val_acc)
