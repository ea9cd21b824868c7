"""A small convolutional network that fits itself to the images."""

from typing import Literal, get_args

from torch import Tensor, nn

Norm = Literal["batch", "group", "layer", "none"]


class CNN(nn.Module):
    """A stem, `depth` stages of two 3 x 3 convolutions, global average pooling, a linear layer.

    The width doubles from stage to stage, and each stage ends with 2 x 2 max pooling while there is something to
    pool. Large images are halved by the stem, and feature maps above 8 pixels are convolved without padding; both
    save time where most of it goes. Any image size works.

    Args:
        in_channels: Channels of the images. Comes from the data.
        image_size: Height and width in pixels. Comes from the data.
        num_classes: Number of outputs. Comes from the data.
        width: Channels of the stem and the first stage.
        depth: Number of stages.
        dropout: Probability with which a feature is dropped before the linear layer, during training.
        norm: Normalisation after each convolution: over the batch (Ioffe & Szegedy 2015), over groups of 8 channels
            (Wu & He 2018), over all channels of a sample, or none.

    Raises:
        ValueError: `width` or `depth` is below 1, `dropout` outside [0, 1), or `norm` unknown.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        width: int = 32,
        depth: int = 2,
        dropout: float = 0.0,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"model.net: width {width} and depth {depth} must be at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.net.dropout: {dropout} is outside [0, 1)")
        if norm not in get_args(Norm):
            raise ValueError(f"model.net.norm: {norm!r} is unknown; allowed are {', '.join(get_args(Norm))}")
        side = min(image_size)
        if side >= 16:
            layers = [_block(in_channels, width, norm, kernel=5, stride=2, padding=0)]
            side = (side - 3) // 2
        else:
            layers = [_block(in_channels, width, norm)]
        channels = width
        for stage in range(depth):
            for is_last in (False, True):
                padding = 0 if side > 8 else 1
                side -= 2 - 2 * padding
                pool = is_last and side >= 4
                layers.append(_block(channels, width * 2**stage, norm, padding=padding, pool=pool))
                channels, side = width * 2**stage, side // 2 if pool else side
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images `(N, C, H, W)` to logits `(N, num_classes)`."""
        return self.head(self.features(x))


def _block(
    in_channels: int,
    channels: int,
    norm: Norm,
    kernel: int = 3,
    stride: int = 1,
    padding: int = 1,
    pool: bool = False,
) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=norm == "none")]
    if pool:  # before normalisation and ReLU, which leaves these a quarter of the work
        layers.append(nn.MaxPool2d(2))
    if norm == "batch":
        layers.append(nn.BatchNorm2d(channels))
    elif norm != "none":
        groups = channels // 8 if norm == "group" and channels % 8 == 0 else 1
        layers.append(nn.GroupNorm(groups, channels))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))
