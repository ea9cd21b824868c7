"""A multi-layer perceptron for images, as the simplest network to compare others with."""

from math import prod

from torch import Tensor, nn


class MLP(nn.Module):
    """Fully connected layers over the flattened image.

    Args:
        in_channels: Channels of the images. Comes from the data.
        image_size: Height and width in pixels. Comes from the data.
        num_classes: Number of outputs. Comes from the data.
        width: Units in each hidden layer.
        depth: Number of hidden layers; 0 makes a linear model.
        dropout: Probability with which a hidden unit is dropped during training.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        features = in_channels * prod(image_size)
        for _ in range(depth):
            layers += [nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout)]
            features = width
        self.layers = nn.Sequential(*layers, nn.Linear(features, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Images `(N, C, H, W)` to logits `(N, num_classes)`."""
        return self.layers(x)
