"""What all image sets have in common: what a network is told, and how a batch is made ready on the device."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from datamodules.arrays import Classes, Sampler, known_sampler
from datamodules.augment import Augment
from datamodules.batches import mix_seed
from datamodules.files import Fit, ImageFiles
from datamodules.splits import check_fractions


class Images(Classes):
    """Labelled images that are stored as uint8, and normalised and augmented on the device.

    Mean and standard deviation are those of the training part, per channel. It tells a network what it needs to know:
    `in_channels`, `image_size`, `num_classes`. A subclass fills `_facts` in `load`, with `in_channels`, `image_size`,
    `class_names`, `mean`, `std`, and `fit` where images are not stretched.

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
        batch_size: int,
        val_fraction: float,
        split_seed: int,
        eval_batch_size: int,
        augment: Augment,
        sampler: Sampler,
    ) -> None:
        super().__init__(batch_size, eval_batch_size)
        self.sampler = known_sampler(sampler)
        check_fractions(val_fraction)
        if not 0 <= split_seed < 2**32:
            raise ValueError(f"data.split_seed: {split_seed} is outside [0, 4294967295]")
        self.val_fraction, self.split_seed, self.augment = val_fraction, split_seed, augment
        self._moments: tuple[Tensor, Tensor] | None = None  # mean and std, on the device in use

    # ---- what the network is told

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.facts["in_channels"]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.facts["image_size"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._moments = None

    # ---- Lightning's hooks

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Stored images `(N, C, H, W)` uint8 to float32, normalised, and augmented while training.

        Labels `(N,)` int64 stay as they are, except where images are mixed: `(N, num_classes)` float32.
        """
        if isinstance(batch, Tensor):
            return self._normalised(batch.to(torch.float32, copy=True))
        images, labels = batch
        x = images.to(torch.float32, copy=True)
        if not (self.trainer and self.trainer.training) or self.augment == Augment():
            return self._normalised(x), labels
        generator = self._generator()
        if self.augment.active:
            x = self.augment(x, generator)
        return self.augment.finish(self._normalised(x), labels, self.num_classes, generator)

    # ---- files of the user

    @property
    def file_suffixes(self) -> set[str]:
        """The files of a folder that are taken for images, by the end of their names."""
        Image.init()
        return set(Image.registered_extensions())

    def read_files(self, paths: list[Path]) -> ImageFiles:
        """The images that `predict_dataloader` goes through, brought to the size and channels of training."""
        fit: Fit = self.facts.get("fit", "stretch")
        self.files = ImageFiles(paths, self.in_channels, self.image_size, self.eval_batch_size, fit)
        return self.files

    def exported(self) -> tuple[Callable[[Tensor], Tensor], Tensor, dict[str, Any]]:
        """How an exported network begins: normalisation of images in the training's size, some, how to fit others."""
        generator = torch.Generator().manual_seed(0)
        some = torch.randint(256, (3, self.in_channels, *self.image_size), generator=generator, dtype=torch.uint8)
        about = {"fit": self.facts.get("fit", "stretch")}
        return lambda images: self.on_after_batch_transfer(images, 0), some, about

    # ---- inside

    def _normalised(self, x: Tensor) -> Tensor:
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
