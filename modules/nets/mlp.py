"""A multi-layer perceptron, for tables, and as the simplest network to compare others with."""

from typing import Literal, get_args

from torch import Tensor, nn

Activation = Literal["relu", "gelu", "silu", "tanh"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}
Norm = Literal["none", "batch", "layer"]
NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class MLP(nn.Module):
    """Fully connected layers over the flattened input.

    Args:
        in_features: Numbers of an input: columns of a table, or channels times height times width of an image. Comes
            from the data.
        num_outputs: Number of outputs. Comes from the data.
        width: Units in each hidden layer.
        depth: Number of hidden layers; 0 makes a linear model.
        dropout: Probability with which a hidden unit is dropped during training.
        activation: Between the layers.
        norm: Normalisation before each activation: over the batch (Ioffe and Szegedy 2015,
            https://arxiv.org/abs/1502.03167), over the units of a sample (Ba et al. 2016,
            https://arxiv.org/abs/1607.06450), or none.

    Raises:
        ValueError: `width` is below 1, `depth` below 0, `dropout` outside [0, 1), or a name unknown.
    """

    def __init__(
        self,
        in_features: int,
        num_outputs: int,
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.0,
        activation: Activation = "relu",
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        if width < 1 or depth < 0:
            raise ValueError(f"model.net: width {width} must be at least 1, and depth {depth} at least 0")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.net.dropout: {dropout} is outside [0, 1)")
        for name, value, allowed in (("activation", activation, get_args(Activation)), ("norm", norm, get_args(Norm))):
            if value not in allowed:
                raise ValueError(f"model.net.{name}: {value!r} is unknown; allowed are {', '.join(allowed)}")
        layers: list[nn.Module] = [nn.Flatten()]
        features = in_features
        for _ in range(depth):
            layers.append(nn.Linear(features, width))
            if norm != "none":
                layers.append(NORMS[norm](width))
            layers += [ACTIVATIONS[activation](), nn.Dropout(dropout)]
            features = width
        self.layers = nn.Sequential(*layers, nn.Linear(features, num_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Inputs `(N, ...)` of `in_features` numbers each to outputs `(N, num_outputs)`."""
        return self.layers(x)
