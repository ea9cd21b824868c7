"""A small convolutional network that fits itself to the size of the images."""

from torch import Tensor, nn


class CNN(nn.Module):
    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        width: int = 32,
        depth: int = 3,
        dropout: float = 0.0,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c = in_channels
        for i in range(depth):
            layers += [
                nn.Conv2d(c, width * 2**i, 3, padding=1, bias=False),
                nn.BatchNorm2d(width * 2**i),
                nn.ReLU(),
            ]
            if i < depth - 1:
                layers.append(nn.MaxPool2d(2))
            c = width * 2**i
        self.layers = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(c, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
