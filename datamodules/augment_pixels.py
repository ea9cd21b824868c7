"""What augmentation does to colours and to parts of an image, by kornia's operations."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn

with warnings.catch_warnings():  # of kornia 0.9 about parts that are not used here
    warnings.simplefilter("ignore")
    from kornia.augmentation import ColorJitter, RandomErasing
    from kornia.augmentation.auto import RandAugment
    from kornia.augmentation.auto.rand_augment.rand_augment import default_policy


class Pixels:
    """Change brightness, contrast, saturation and hue of each image, and do some of RandAugment's fifteen changes.

    Args:
        brightness: Largest change of the factor from 1.
        contrast: Largest change of the factor from 1.
        saturation: Largest change of the factor from 1.
        hue: Largest turn of the colour circle, in whole turns.
        changes: Of RandAugment for each image. kornia's own draws the kinds of change for a whole batch at once; here
            each image has its own.
        magnitude: Of these, 1 to 29.
    """

    def __init__(
        self, brightness: float, contrast: float, saturation: float, hue: float, changes: int, magnitude: int
    ) -> None:
        self.colour = bool(saturation or hue)
        jitters = any((brightness, contrast, saturation, hue))
        self.jitter = ColorJitter(brightness, contrast, saturation, hue, p=1.0) if jitters else None
        self.changes, self.magnitude = changes, magnitude
        self._kinds: dict[int, list[nn.Module]] = {}  # by the number of channels

    def __call__(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Images `(N, C, H, W)` of a floating dtype, 0 to 255, to the same; the generator is on the CPU."""
        channels = x.shape[1]
        if self.colour and channels != 3:
            raise ValueError(
                f"data.augment.saturation: images with {channels} channels have none; it and hue have to be 0"
            )
        with drawing_from(generator):
            y = x / 255
            if self.jitter is not None:
                y = self.jitter(y)
            for _ in range(self.changes):
                y = self._change(y.clamp(0, 1), self._of(channels))
            return y.clamp(0, 1) * 255

    def _of(self, channels: int) -> list[nn.Module]:
        if channels not in self._kinds:
            # "color" is the saturation, which needs three channels
            policies = [policy for policy in default_policy if channels == 3 or policy[0][0] != "color"]
            self._kinds[channels] = [RandAugment(1, self.magnitude, [policy]) for policy in policies]
        return self._kinds[channels]

    @staticmethod
    def _change(x: Tensor, kinds: list[nn.Module]) -> Tensor:
        chosen = torch.randint(len(kinds), (len(x),))
        changed = torch.empty_like(x)
        for number in chosen.unique().tolist():
            which = (chosen == number).nonzero()[:, 0].to(x.device)
            changed[which] = kinds[number](x[which])
        return changed


def erase(x: Tensor, probability: float, generator: Generator | None = None) -> Tensor:
    """Images `(N, C, H, W)` with a rectangle of 0, of 2 to 33 % of the area, in each with the given probability."""
    with drawing_from(generator):
        return RandomErasing(p=probability)(x)


@contextmanager
def drawing_from(generator: Generator | None) -> Iterator[None]:
    """Let what draws from torch's global generator of the CPU draw numbers that follow from another one."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
