"""Mixing pairs of images and their labels: mixup and cutmix."""

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def mix(
    x: Tensor, labels: Tensor, classes: int, mixup: float, cutmix: float, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Mix each image with another one of the batch, by a share of its own.

    Args:
        x: `(N, C, H, W)` of a floating dtype.
        labels: `(N,)` int64.
        classes: Number of them.
        mixup: alpha of Beta(alpha, alpha), from which the shares are drawn that are added (Zhang et al. 2017,
            https://arxiv.org/abs/1710.09412); 0 for none.
        cutmix: The same for the shares of the area that are pasted (Yun et al. 2019,
            https://arxiv.org/abs/1905.04899). With both, every second image gets the one, the others the other.
        generator: On the CPU, for the same numbers on each device.

    Returns:
        Images `(N, C, H, W)`, and labels `(N, classes)` float32 that sum to 1.
    """
    n, _, height, width = x.shape
    other = torch.randperm(n, generator=generator)
    pasted = torch.full((n,), not mixup) if not (mixup and cutmix) else torch.rand(n, generator=generator) < 0.5
    share = torch.where(pasted, _beta(cutmix or 1.0, n, generator), _beta(mixup or 1.0, n, generator))
    # a rectangle of the share's area around any point; what lies outside the image is cut off
    box = [_span(size, share.sqrt(), torch.rand(n, generator=generator)) for size in (height, width)]
    inside = box[0][:, :, None] & box[1][:, None, :] & pasted[:, None, None]
    share = torch.where(pasted, inside.float().mean((1, 2)), share)  # as it is in pixels
    weight = torch.where(pasted[:, None, None], inside.float(), share[:, None, None])[:, None].to(x.device, x.dtype)
    mixed = torch.lerp(x, x[other.to(x.device)], weight)
    targets = F.one_hot(labels, classes).float()
    return mixed, torch.lerp(targets, targets[other.to(x.device)], share[:, None].to(x.device))


def _span(size: int, share: Tensor, centre: Tensor) -> Tensor:
    """Which of `size` pixels `(N, size)` lie in a part of the given share around a centre, both `(N,)` in [0, 1]."""
    pixels = torch.arange(size) + 0.5
    return ((pixels - centre[:, None] * size).abs() < share[:, None] * size / 2).bool()


def _beta(alpha: float, n: int, generator: Generator | None) -> Tensor:
    """`(n,)` float32 of Beta(alpha, alpha); torch's own takes no generator."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, n)).float()
