"""Random changes of whole batches of images, on the device the batch is on."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from datamodules.mixing import mix

if TYPE_CHECKING:
    from datamodules.augment_pixels import Pixels

Flip = Literal["none", "horizontal", "vertical", "both"]
LIMITS = {  # of the numbers: least and most
    "shift": (0, 1),
    "rotate": (0, 180),
    "scale": (0, 1),
    "brightness": (0, 1),
    "contrast": (0, 1),
    "saturation": (0, 1),
    "hue": (0, 0.5),
    "rand_augment": (0, 15),
    "magnitude": (1, 29),
    "erase": (0, 1),
    "mixup": (0, math.inf),
    "cutmix": (0, math.inf),
}


@dataclass(frozen=True)
class Augment:
    """Change each training image by random amounts of its own; by default not at all.

    Shift, turn, scale, flip and crop are one affine resampling (bilinear, edges repeated), so a batch costs the same
    with one or all of them. What changes the colours, and what covers a part, is kornia's.

    Args:
        shift: Largest move along each axis, as a share of the image's side; 0.1 moves 28 pixels by up to 2.8.
        rotate: Largest turn in degrees, either way.
        scale: Largest change of size; 0.1 scales by 0.9 to 1.1.
        flip: Mirror every second image, `horizontal`, `vertical`, or `both`, each by itself.
        crop: Smallest share of the area that is cut out at random and brought to full size, with an aspect ratio of
            3/4 to 4/3 (Szegedy et al. 2014, https://arxiv.org/abs/1409.4842, with 0.08); 1 cuts nothing.
        brightness: Largest change of the factor from 1.
        contrast: Largest change of the factor from 1.
        saturation: Largest change of the factor from 1; for images with three channels, as `hue`.
        hue: Largest turn of the colour circle; 0.5 is half of it.
        rand_augment: Number of changes for each image out of 15 kinds, each drawn for it alone (RandAugment, Cubuk et
            al. 2019, https://arxiv.org/abs/1909.13719).
        magnitude: How strong these are, 1 to 29.
        erase: Probability of covering a rectangle of 2 to 33 % of the area with the mean colour (Zhong et al. 2017,
            https://arxiv.org/abs/1708.04896).
        mixup: Mix pairs of images, and their labels, by a share from Beta(mixup, mixup), 0.2 say (Zhang et al. 2017,
            https://arxiv.org/abs/1710.09412).
        cutmix: Paste a rectangle of another image in, and its share of the label, by Beta(cutmix, cutmix), 1 say (Yun
            et al. 2019, https://arxiv.org/abs/1905.04899). With `mixup`, each image gets one of both.

    Raises:
        ValueError: A number is out of its range, or a word unknown.
    """

    shift: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    flip: Flip = "none"
    crop: float = 1.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    rand_augment: int = 0
    magnitude: int = 9
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            if not least <= (value := getattr(self, name)) <= most or math.isinf(value):
                raise ValueError(f"data.augment.{name}: {value} is outside [{least}, {most}]")
        if not 0 < self.crop <= 1:
            raise ValueError(f"data.augment.crop: {self.crop} is outside (0, 1]")
        if self.flip not in get_args(Flip):
            raise ValueError(f"data.augment.flip: {self.flip!r} is unknown; allowed are {', '.join(get_args(Flip))}")

    @property
    def moves(self) -> bool:
        """Whether pixels change their places."""
        return bool(self.shift or self.rotate or self.scale or self.flip != "none" or self.crop < 1)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with others."""
        return bool(self.mixup or self.cutmix)

    @property
    def active(self) -> bool:
        """Whether there is anything to do to an image by itself, before it is normalised."""
        return self.moves or self._pixels is not None

    @cached_property
    def _pixels(self) -> "Pixels | None":
        if not any((self.brightness, self.contrast, self.saturation, self.hue, self.rand_augment)):
            return None
        from datamodules.augment_pixels import Pixels  # kornia: who needs none of it does not wait for it

        factors = (self.brightness, self.contrast, self.saturation, self.hue)
        return Pixels(*factors, self.rand_augment, self.magnitude)

    def __call__(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Images `(N, C, H, W)` of a floating dtype, 0 to 255, to images of the same shape, dtype and device.

        `generator` lives on the CPU, whatever the device of `x`: the same numbers everywhere.

        Raises:
            ValueError: Saturation or hue are to be changed of images that have no three channels.
        """
        if self.moves:
            x = self._move(x, generator)
        return x if self._pixels is None else self._pixels(x, generator)

    def finish(
        self, x: Tensor, labels: Tensor, classes: int, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """What comes after normalising: cover parts with 0, the mean; and mix images and labels.

        Args:
            x: `(N, C, H, W)` of a floating dtype.
            labels: `(N,)` int64.
            classes: Number of them.
            generator: As above.

        Returns:
            Images of the same shape; labels as they were, or, where images are mixed, `(N, classes)` float32 that sum
            to 1.
        """
        if self.erase:
            from datamodules.augment_pixels import erase

            x = erase(x, self.erase, generator)
        return mix(x, labels, classes, self.mixup, self.cutmix, generator) if self.mixes else (x, labels)

    def _move(self, x: Tensor, generator: Generator | None) -> Tensor:
        n, _, height, width = x.shape
        uniform = torch.rand(4, n, generator=generator) * 2 - 1
        turn = uniform[0] * math.radians(self.rotate)
        zoom = 1 + uniform[1] * self.scale
        move = uniform[2:] * 2 * self.shift  # affine_grid's coordinates run from -1 to 1
        # the sampling grid is in units of half a side on each axis: turning pixels needs the aspect ratio
        cos, sin, aspect = turn.cos() / zoom, turn.sin() / zoom, height / width
        theta = torch.stack((cos, -sin * aspect, move[0], sin / aspect, cos, move[1]), dim=1).view(n, 2, 3)
        if self.crop < 1:
            theta = _cropped(theta, self.crop, torch.rand(4, n, generator=generator))
        for axis, name in enumerate(("horizontal", "vertical")):
            if self.flip in (name, "both"):  # of the grid's columns: what is right in the result comes from the left
                theta[:, :, axis] *= torch.randint(2, (n, 1), generator=generator) * 2 - 1
        grid = F.affine_grid(theta.to(x.device, x.dtype), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _cropped(theta: Tensor, smallest: float, uniform: Tensor) -> Tensor:
    """Affine maps `(N, 2, 3)` that take their result from a random window, from numbers `(4, N)` in [0, 1)."""
    area = smallest + (1 - smallest) * uniform[0]
    ratio = torch.exp((2 * uniform[1] - 1) * math.log(4 / 3))
    sides = torch.stack(((area * ratio).sqrt(), (area / ratio).sqrt())).clamp(max=1)  # width and height
    centre = (2 * uniform[2:] - 1) * (1 - sides)
    window = torch.zeros(theta.shape[0], 3, 3)
    window[:, 0, 0], window[:, 1, 1], window[:, 2, 2] = sides[0], sides[1], 1
    window[:, 0, 2], window[:, 1, 2] = centre
    return theta @ window
