"""Start values of weights by a published method, for any module."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Init = Literal["default", "he", "xavier", "orthogonal"]
RELU = math.sqrt(2)  # a ReLU halves the second moment of its inputs


@dataclass
class Weight:
    """One or several matrices, one after the other, in a parameter of a layer.

    Attributes:
        layer: The layer.
        name: Of the parameter.
        parts: How many matrices: groups of a convolution, gates, or queries, keys and values.
        inputs: Numbers that an output of one of them depends on.
        outputs: Numbers that depend on an input.
        rectified: Whether a ReLU is taken to come after it.
    """

    layer: nn.Module
    name: str
    parts: int
    inputs: float
    outputs: float
    rectified: bool = False


def initialise(module: nn.Module, how: Init, seed: int) -> None:
    """Give a module's weights new start values, and the biases beside them 0.

    Of linear layers, convolutions (transposed ones, too), multi-head attention and recurrent layers. Normalisation
    layers, embeddings, what shares the weights of an embedding, and what is not trained stay as they are.

    `he` draws from normal distributions of variance gain^2 / inputs (He et al. 2015, https://arxiv.org/abs/1502.01852),
    `xavier` from uniform ones of variance 2 / (inputs + outputs) (Glorot and Bengio 2010,
    https://proceedings.mlr.press/v9/glorot10a.html), and `orthogonal` takes random matrices whose rows, or columns if
    these are fewer, are orthogonal with norm gain (Saxe et al. 2013, https://arxiv.org/abs/1312.6120). The gain is √2,
    which makes up for a ReLU; and 1 in attention, in recurrent layers, and in the last layer, so that behind ReLUs the
    outputs are as large as the inputs: for normalised ones the first cross-entropy of C classes is about ln C + 1/2.

    Args:
        module: Its parameters are changed in place.
        how: `default` changes nothing.
        seed: The same one gives the same weights.

    Raises:
        ValueError: There are no such weights, or some have no shape yet.
    """
    if how == "default":
        return
    name = type(getattr(module, "net", module)).__name__
    if lazy := next((path for path, p in module.named_parameters() if nn.parameter.is_lazy(p)), None):
        raise ValueError(f"parameters.init: {how} needs all shapes, and {lazy} of {name} has none yet")
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)]
    last = layers[-1] if layers else None
    tied = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding | nn.EmbeddingBag)}
    weights = [
        weight
        for layer in module.modules()
        for weight in _weights(layer, layer is not last)
        if (values := getattr(weight.layer, weight.name)).requires_grad and id(values) not in tied
    ]
    if not weights:
        kinds = "linear, convolutional, recurrent or attention layer that is trained"
        raise ValueError(f"parameters.init: {how}, and {name} has no {kinds}; allowed is default")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in weights:
            _set(weight, how, generator)


def _weights(layer: nn.Module, rectified: bool) -> Iterator[Weight]:
    if isinstance(layer, nn.Linear):
        ends_attention = isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear)
        yield Weight(layer, "weight", 1, layer.in_features, layer.out_features, rectified and not ends_attention)
    elif isinstance(layer, nn.modules.conv._ConvNd):
        places = math.prod(layer.kernel_size)
        inputs, outputs = (n // layer.groups * places for n in (layer.in_channels, layer.out_channels))
        # of a transposed one with a stride, an output depends on a part of the places
        fewer = math.prod(layer.stride) if layer.transposed else 1
        yield Weight(layer, "weight", layer.groups, inputs / fewer, outputs, rectified)
    elif isinstance(layer, nn.MultiheadAttention):
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            if (values := getattr(layer, name)) is not None:
                yield Weight(layer, name, len(values) // layer.embed_dim, values.shape[1], layer.embed_dim)
    elif isinstance(layer, nn.RNNBase | nn.RNNCellBase):
        for name, values in layer.named_parameters(recurse=False):
            if values.ndim == 2:
                gates = max(1, len(values) // layer.hidden_size)
                yield Weight(layer, name, gates, values.shape[1], len(values) / gates)


def _set(weight: Weight, how: Init, generator: torch.Generator) -> None:
    layer, values = weight.layer, getattr(weight.layer, weight.name)
    gain = RELU if weight.rectified else 1.0
    drawn = torch.cat([
        _draw(torch.empty(part.shape).flatten(1), how, gain, weight, generator).view(part.shape)
        for part in values.chunk(weight.parts)
    ])  # fmt: skip
    if parametrize.is_parametrized(layer, weight.name):  # weight_norm and its like find what gives these values
        setattr(layer, weight.name, drawn.to(values))
    else:
        values.copy_(drawn)
    for name, bias in layer.named_parameters(recurse=False):
        if "bias" in name and bias.ndim == 1 and bias.requires_grad:
            bias.zero_()


def _draw(matrix: Tensor, how: Init, gain: float, weight: Weight, generator: torch.Generator) -> Tensor:
    if how == "he":
        return nn.init.normal_(matrix, std=gain / math.sqrt(weight.inputs), generator=generator)
    if how == "xavier":
        most = math.sqrt(6 / (weight.inputs + weight.outputs))
        return nn.init.uniform_(matrix, -most, most, generator=generator)
    return nn.init.orthogonal_(matrix, gain, generator=generator)
