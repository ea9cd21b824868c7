"""Image sets that fit into memory, as arrays."""

import numpy as np
import torch
from torch import Tensor

from datamodules.arrays import Sampler
from datamodules.augment import Augment
from datamodules.images import Images
from datamodules.splits import draw


class ImageArrays(Images):
    """Labelled images kept in memory as they are stored (uint8), and made ready on the device.

    A subclass gives `load_train` and `load_test`; everything else is here. The validation part is split off
    the training images, seeded and stratified; the test images are for testing only.

    Args:
        batch_size: Training images per step, over all devices together; 0 takes the whole training part.
        val_fraction: Share of the training images that is held out for validation, in (0, 1).
        split_seed: Which images are held out. Apart from `seed_everything`, so that runs with different seeds
            are measured on the same images.
        eval_batch_size: Images per batch in validation, test and prediction; changes speed and memory only.
        augment: Random changes of the training images.
        sampler: `balanced` trains with as many images of each class as of any other.
    """

    def __init__(
        self,
        batch_size: int = 64,
        val_fraction: float = 0.15,
        split_seed: int = 0,
        eval_batch_size: int = 256,
        augment: Augment = Augment(),  # noqa: B008 (frozen)
        sampler: Sampler = "shuffle",
    ) -> None:
        super().__init__(batch_size, val_fraction, split_seed, eval_batch_size, augment, sampler)

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

    # ---- inside

    def setup(self, stage: str) -> None:
        if stage in ("fit", "validate"):
            super().setup(stage)
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

    def part(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        if name == "test":
            return self.test_images, self.test_labels, torch.arange(len(self.test_labels))
        return self.images, self.labels, self.parts[name]

    def load(self) -> None:
        """Read the training images, split them, and learn their moments."""
        images, labels, class_names = self.load_train()
        self.images, self.labels = torch.as_tensor(images), torch.as_tensor(labels)  # arrays of numpy do as well
        _check_arrays("train", self.images, self.labels, len(class_names))
        self.parts = self._split(self.labels, class_names)
        if not self._facts:
            mean, std = _moments(self.images, self.parts["train"])
            self._facts = {
                "in_channels": self.images.shape[1],
                "image_size": list(self.images.shape[2:]),
                "class_names": class_names,
                "mean": mean,
                "std": std,
            }

    def _split(self, labels: Tensor, class_names: list[str]) -> dict[str, Tensor]:
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
        parts = draw(np.arange(len(labels)), {"val": held_out}, labels.numpy(), self.split_seed)
        return {name: torch.from_numpy(indices) for name, indices in parts.items()}


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
