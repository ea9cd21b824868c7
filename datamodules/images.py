"""What all image sets that fit into memory have in common: split, batch, normalise, augment."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from torch import Tensor

from datamodules.arrays import Arrays
from datamodules.augment import Augment
from datamodules.batches import Batches, mix_seed
from datamodules.files import ImageFiles


class ImageArrays(Arrays):
    """Labelled images kept in memory as they are stored (uint8), and made ready on the device.

    A subclass gives `load_train` and `load_test`; everything else is here. The validation part is split off
    the training images, seeded and stratified; the test images are for testing only. Mean and standard
    deviation are those of the training part, per channel.

    It tells a network what it needs to know: `in_channels`, `image_size`, `num_classes`.

    Args:
        batch_size: Training images per step, over all devices together.
        val_fraction: Share of the training images that is held out for validation, in (0, 1).
        split_seed: Which images are held out. Apart from `seed_everything`, so that runs with different seeds
            are measured on the same images.
        eval_batch_size: Images per batch in validation, test and prediction; changes speed and memory only.
        augment: Random changes of the training images.
    """

    def __init__(
        self,
        batch_size: int = 64,
        val_fraction: float = 0.15,
        split_seed: int = 0,
        eval_batch_size: int = 256,
        augment: Augment = Augment(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(batch_size, eval_batch_size)
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise ValueError(f"data.{name}: {value} is not a positive number")
        if not 0 < val_fraction < 1:
            raise ValueError(f"data.val_fraction: {val_fraction} is outside (0, 1)")
        if not 0 <= split_seed < 2**32:
            raise ValueError(f"data.split_seed: {split_seed} is outside [0, 4294967295]")
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.augment = augment
        self._moments: tuple[Tensor, Tensor] | None = None  # mean and std, on the device in use

    # ---- what a subclass gives

    def load_train(self) -> tuple[Tensor, Tensor, list[str]]:
        """Images `(N, C, H, W)` uint8, labels `(N,)` int64 from 0, and the names of the classes."""
        raise NotImplementedError(f"{type(self).__name__} must define load_train")

    def load_test(self) -> tuple[Tensor, Tensor]:
        """Test images and labels, as in `load_train`. Without it nothing is tested."""
        raise NotImplementedError(f"{type(self).__name__} must define load_test")

    @property
    def has_test_data(self) -> bool:
        """Whether the subclass defines `load_test`."""
        return type(self).load_test is not ImageArrays.load_test

    # ---- what the network is told

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.facts["in_channels"]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.facts["image_size"])

    @property
    def num_classes(self) -> int:
        """Number of classes in the training images."""
        return len(self.facts["class_names"])

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        return self.facts["class_names"]

    @property
    def class_counts(self) -> list[int]:
        """Training samples of each class, without those that are held out."""
        if not hasattr(self, "train_indices"):
            self.load()
        return torch.bincount(self.labels[self.train_indices], minlength=self.num_classes).tolist()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._moments = None

    # ---- Lightning's hooks

    def setup(self, stage: str) -> None:
        self.check_shares(self.batch_size)
        if stage in ("fit", "validate") and not hasattr(self, "train_indices"):
            self.load()
        if stage in ("fit", "test") and self.has_test_data and not hasattr(self, "test_images"):
            # in `fit` already, so that a mistake shows before the training and not after it
            self.test_images, self.test_labels = map(torch.as_tensor, self.load_test())
            _check_arrays("test", self.test_images, self.test_labels, self.num_classes)
            found = (self.test_images.shape[1], tuple(self.test_images.shape[2:]))
            if found != (self.in_channels, self.image_size):
                raise ValueError(
                    f"data: the test images are {_shape(*found)} and the training images "
                    f"{_shape(self.in_channels, self.image_size)}"
                )

    def train_dataloader(self) -> Batches:
        return self.train_batches(self.images, self.labels, self.train_indices, self.batch_size)

    def val_dataloader(self) -> Batches:
        return self.batches(self.images, self.labels, self.val_indices)

    def test_dataloader(self) -> Batches:
        return self.batches(self.test_images, self.test_labels, torch.arange(len(self.test_labels)))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Stored images `(N, C, H, W)` uint8 to float32, normalised, and augmented while training."""
        if isinstance(batch, Tensor):
            return self._prepare(batch, training=False)
        images, labels = batch
        return self._prepare(images, training=bool(self.trainer and self.trainer.training)), labels

    # ---- files of the user

    @property
    def file_suffixes(self) -> set[str]:
        """The files of a folder that are taken for images, by the end of their names."""
        Image.init()
        return set(Image.registered_extensions())

    def read_files(self, paths: list[Path]) -> ImageFiles:
        """The images that `predict_dataloader` goes through, brought to the size and channels of training."""
        self.files = ImageFiles(paths, self.in_channels, self.image_size, self.eval_batch_size)
        return self.files

    # ---- inside

    def load(self) -> None:
        """Read the training images, split them, and learn their moments."""
        images, labels, class_names = self.load_train()
        self.images, self.labels = torch.as_tensor(images), torch.as_tensor(labels)  # arrays of numpy do as well
        _check_arrays("train", self.images, self.labels, len(class_names))
        self.train_indices, self.val_indices = self._split(self.labels, class_names)
        if self.batch_size > len(self.train_indices):
            raise ValueError(
                f"data.batch_size: {self.batch_size} is larger than the training part; "
                f"allowed are 1 to {len(self.train_indices)}"
            )
        if not self._facts:
            mean, std = _moments(self.images, self.train_indices)
            self._facts = {
                "in_channels": self.images.shape[1],
                "image_size": list(self.images.shape[2:]),
                "class_names": class_names,
                "mean": mean,
                "std": std,
            }

    def _split(self, labels: Tensor, class_names: list[str]) -> tuple[Tensor, Tensor]:
        counts = torch.bincount(labels, minlength=len(class_names))
        held_out = round(self.val_fraction * len(labels))
        if not len(class_names) <= held_out <= len(labels) - len(class_names):
            raise ValueError(
                f"data.val_fraction: {self.val_fraction} holds out {held_out} of {len(labels)} images, and both "
                f"parts need at least one of each of the {len(class_names)} classes"
            )
        if counts.min() < 2:
            name, count = class_names[int(counts.argmin())], ("no image", "a single image")[int(counts.min())]
            raise ValueError(f"data: class {name!r} has {count}, and training and validation need one each")
        train, val = train_test_split(
            np.arange(len(labels)), test_size=held_out, stratify=labels.numpy(), random_state=self.split_seed
        )
        return torch.from_numpy(np.sort(train)), torch.from_numpy(np.sort(val))

    def _prepare(self, images: Tensor, training: bool) -> Tensor:
        x = images.to(torch.float32, copy=True)
        if training and self.augment.active:
            x = self.augment(x, self._generator())
        mean, std = self._moments_on(x.device)
        return x.sub_(mean).div_(std)

    def _moments_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if self._moments is None or self._moments[0].device != device:
            mean, std = (torch.tensor(self.facts[name], device=device).view(1, -1, 1, 1) for name in ("mean", "std"))
            self._moments = (mean, std)
        return self._moments

    def _generator(self) -> torch.Generator:
        # from counters, not from a running state: a batch is augmented alike whatever came before it
        trainer = self.trainer
        assert trainer is not None
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        step = trainer.fit_loop.epoch_loop.batch_progress.current.ready  # batches of this epoch before this one
        return torch.Generator().manual_seed(mix_seed(seed, trainer.current_epoch, step, trainer.global_rank))


def _check_arrays(part: str, images: Tensor, labels: Tensor, classes: int) -> None:
    """Refuse what a subclass's `load_train` or `load_test` may get wrong."""
    name = f"data: load_{part}"
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"{name} gives images {tuple(images.shape)} {images.dtype}, not (N, C, H, W) torch.uint8")
    if len(labels) != len(images):
        raise ValueError(f"{name} gives {len(images)} images and {len(labels)} labels")
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise ValueError(f"{name} gives labels {tuple(labels.shape)} {labels.dtype}, not (N,) torch.int64")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"{name} gives labels {found}; those of {classes} classes count from 0 to {classes - 1}")


def _moments(images: Tensor, indices: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of the chosen uint8 images; an all-equal channel gets 1."""
    mean, std = [], []
    values = torch.arange(256, dtype=torch.float64)
    for channel in images.unbind(1):
        histogram = torch.bincount(channel[indices].flatten(), minlength=256).double()
        share = histogram / histogram.sum()
        center = (share * values).sum()
        mean.append(float(center))
        std.append(float((share * (values - center) ** 2).sum().sqrt()) or 1.0)
    return mean, std


def _shape(channels: int, size: tuple[int, ...]) -> str:
    return "x".join(map(str, (channels, *size)))
