"""Random changes of whole image batches, on the device the batch is on."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augment:
    """Move, turn and scale each training image by its own random amount.

    All three are one affine resampling (bilinear, edges repeated), so a batch costs the same with one or all.

    Args:
        shift: Largest move along each axis, as a share of the image's side; 0.1 moves 28 pixels by up to 2.8.
        rotate: Largest turn in degrees, either way.
        scale: Largest change of size; 0.1 scales by 0.9 to 1.1.
    """

    shift: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("shift", 1), ("rotate", 180), ("scale", 1)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise ValueError(f"data.augment.{name}: {value} is outside [0, {most}]")

    @property
    def active(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.shift or self.rotate or self.scale)

    def __call__(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Images `(N, C, H, W)` of a floating dtype to images of the same shape, dtype and device.

        `generator` lives on the CPU, whatever the device of `x`: the same numbers everywhere.
        """
        if not self.active:
            return x
        n, _, height, width = x.shape
        uniform = torch.rand(4, n, generator=generator) * 2 - 1
        turn = uniform[0] * math.radians(self.rotate)
        zoom = 1 + uniform[1] * self.scale
        move = uniform[2:] * 2 * self.shift  # affine_grid's coordinates run from -1 to 1
        # the sampling grid is in units of half a side on each axis: turning pixels needs the aspect ratio
        cos, sin, aspect = turn.cos() / zoom, turn.sin() / zoom, height / width
        rows = (cos, -sin * aspect, move[0], sin / aspect, cos, move[1])
        theta = torch.stack(rows, dim=1).view(n, 2, 3).to(x.device, x.dtype)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)
