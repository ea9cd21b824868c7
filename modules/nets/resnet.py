"""Residual networks for images."""

from typing import Literal, get_args

from torch import Tensor, nn

Depth = Literal[18, 34, 50]
Stem = Literal["auto", "cifar", "imagenet"]
BLOCKS: dict[int, tuple[int, int, int, int]] = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class ResNet(nn.Module):
    """A residual network (He et al. 2015, https://arxiv.org/abs/1512.03385) of 18, 34 or 50 layers.

    Convolutions are initialised by He's rule; the last normalisation of each block starts at 0, so that a block starts
    as the identity (Goyal et al. 2017, https://arxiv.org/abs/1706.02677). In the bottlenecks of 50 layers it is the
    3 x 3 convolution that strides. Parameters have the names that are usual elsewhere (`conv1`, `layer1.0.conv1`, …,
    `fc`), so that weights from there fit.

    Args:
        in_channels: Channels of the images. Comes from the data.
        image_size: Height and width in pixels. Comes from the data.
        num_classes: Number of outputs. Comes from the data.
        depth: Number of layers with weights.
        width: Channels of the first stage; 64 in the paper. The others have 2, 4 and 8 times as many.
        stem: `imagenet` begins with a 7 x 7 convolution and a pooling, each of stride 2; `cifar`, for small images,
            with a 3 x 3 convolution of stride 1; `auto` takes that for images whose shorter side is below 96.
        dropout: Probability with which a feature is dropped before the linear layer, during training.

    Raises:
        ValueError: An argument is out of its range, or unknown.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        depth: Depth = 18,
        width: int = 64,
        stem: Stem = "auto",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"model.net.depth: {depth} is unknown; allowed are {', '.join(map(str, BLOCKS))}")
        if width < 1:
            raise ValueError(f"model.net.width: {width} is not a positive number")
        if stem not in get_args(Stem):
            raise ValueError(f"model.net.stem: {stem!r} is unknown; allowed are {', '.join(get_args(Stem))}")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.net.dropout: {dropout} is outside [0, 1)")
        small = stem == "cifar" or (stem == "auto" and min(image_size) < 96)
        self.conv1 = nn.Conv2d(in_channels, width, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        expansion = 4 if depth == 50 else 1
        channels, stages = width, []
        for stage, count in enumerate(BLOCKS[depth]):
            blocks = []
            for number in range(count):
                stride = 2 if stage and not number else 1
                blocks.append(Block(channels, width * 2**stage, stride, expansion))
                channels = width * 2**stage * expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Block):
                nn.init.zeros_((module.bn2 if expansion == 1 else module.bn3).weight)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(N, C, H, W)` to logits `(N, num_classes)`."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.dropout(self.avgpool(x).flatten(1)))


class Block(nn.Module):
    """Two 3 x 3 convolutions and a way around them; or, with an expansion, 1 x 1, 3 x 3 and 1 x 1.

    Args:
        in_channels: Of the input.
        channels: Of the 3 x 3 convolutions.
        stride: Of the first of them.
        expansion: Times as many channels come out; 1 makes the plain block.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        out_channels = channels * expansion
        if expansion == 1:
            self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
            self.conv2 = nn.Conv2d(channels, out_channels, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(out_channels)
        else:
            self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
            self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels)
            self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(out_channels)
        self.expansion = expansion
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """`(N, in_channels, H, W)` to `(N, channels * expansion, H / stride, W / stride)`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        if self.expansion > 1:
            x = self.bn3(self.conv3(self.relu(x)))
        return self.relu(x + shortcut)
