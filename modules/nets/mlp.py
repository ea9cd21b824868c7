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

    Raises:
        ValueError: `width` is below 1, `depth` below 0, or `dropout` outside [0, 1).
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
        if width < 1 or depth < 0:
            raise ValueError(f"model.net: width {width} must be at least 1, and depth {depth} at least 0")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.net.dropout: {dropout} is outside [0, 1)")
        layers: list[nn.Module] = [nn.Flatten()]
        features = in_channels * prod(image_size)
        for _ in range(depth):
            layers += [nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout)]
            features = width
        self.layers = nn.Sequential(*layers, nn.Linear(features, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Images `(N, C, H, W)` to logits `(N, num_classes)`."""
        return self.layers(x)
