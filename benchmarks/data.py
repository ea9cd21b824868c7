"""Data for measuring speed, which does not depend on what is in the images."""

import torch
from torch import Tensor

from datamodules import ImageArrays


class SyntheticImages(ImageArrays):
    """Random grey images of 28 x 28 pixels in ten classes.

    Args:
        batch_size: Images per step.
        samples: Training images, those for validation not counted.
    """

    def __init__(self, batch_size: int = 64, samples: int = 6400) -> None:
        held_out = 500
        super().__init__(batch_size, val_fraction=held_out / (samples + held_out))
        self.total = samples + held_out

    def load_train(self) -> tuple[Tensor, Tensor, list[str]]:
        return *self._random(self.total), [str(i) for i in range(10)]

    def load_test(self) -> tuple[Tensor, Tensor]:
        return self._random(500)

    @staticmethod
    def _random(count: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator)
        return images, torch.arange(count) % 10
