"""A network of any package, with a new last layer."""

import difflib
from importlib import import_module
from typing import Any

from torch import Tensor, nn


class Pretrained(nn.Module):
    """A network made by a class or a function of any package, whose last layer is replaced by a new one.

    Its parameters are `backbone.*` and `head.*`. It begins with random weights: the config's `weights` names the file
    of the trained ones, which is read when a run begins and never again.

    Args:
        network: The path of a class, a function or a class method that makes the network, as
            `torchvision.models.resnet18`. It takes inputs `(N, ...)` and gives outputs `(N, K)`, or an object that has
            them as `logits`.
        num_outputs: Outputs of the new layer. Comes from the data.
        arguments: What it is made with, by name.
        head: Name of the layer that is replaced, as `fc`, the last one by which outputs are made; `auto` is the last
            linear layer.
        dropout: Probability with which a feature is dropped before the new layer, during training.

    Raises:
        ValueError: The network can't be made, has no such layer, or an argument is out of its range.
    """

    def __init__(
        self,
        network: str,
        num_outputs: int,
        arguments: dict[str, Any] | None = None,
        head: str = "auto",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"model.net.dropout: {dropout} is outside [0, 1)")
        self.backbone = _made(network, arguments or {})
        name, last = _last_layer(self.backbone, head)
        features = last.in_features if isinstance(last, nn.Linear) else last.in_channels
        parent, _, attribute = name.rpartition(".")
        setattr(self.backbone.get_submodule(parent), attribute, nn.Identity())
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, num_outputs)
        self.replaced = name

    def forward(self, x: Tensor) -> Tensor:
        """Inputs `(N, ...)` to outputs `(N, num_outputs)`."""
        features = self.backbone(x)
        features = getattr(features, "logits", features)
        if not isinstance(features, Tensor) or features.flatten(1).shape[1] != self.head.in_features:
            found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"model.net.head: {self.replaced} is not the layer that makes the outputs: without it the network "
                f"gives {found} for {len(x)} inputs, and not ({len(x)}, {self.head.in_features})"
            )
        return self.head(self.dropout(features.flatten(1)))


def _made(path: str, arguments: dict[str, Any]) -> nn.Module:
    maker = _found(path)
    if not callable(maker):
        raise ValueError(f"model.net.network: {path} is a {type(maker).__name__}, and makes nothing")
    try:
        made = maker(**arguments)
    except Exception as error:  # the network's own, of whichever kind; --debug shows where
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"model.net.arguments: {path} can't be made with {arguments}: {told}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"model.net.network: {path} makes a {type(made).__name__}, and no network")
    return made


def _found(path: str) -> Any:
    """What a dotted path names: in a module, or in a class of it."""
    words = path.split(".")
    if len(words) < 2:
        raise ValueError(f"model.net.network: {path!r} is no path of a class or a function, as torch.nn.Linear is")
    for count in range(len(words) - 1, 0, -1):
        name = ".".join(words[:count])
        try:
            place: Any = import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # something that this module needs is missing
            continue
        for word in words[count:]:
            if not hasattr(place, word):
                close = difflib.get_close_matches(word, dir(place), n=1)
                hint = f"; did you mean '{close[0]}'?" if close else ""
                raise ValueError(f"model.net.network: no {word!r} in {name}{hint}")
            place = getattr(place, word)
        return place
    raise ValueError(
        f"model.net.network: {path}, and no package {words[0]!r} is installed here; that of the recipe comes with "
        "pip install -e '.[pretrained]'"
    )


def _last_layer(network: nn.Module, head: str) -> tuple[str, Any]:
    """The name of the layer that is to be replaced, and the layer."""
    layers = {
        name: layer
        for name, layer in network.named_modules()
        if name and (isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)))
    }
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    if head == "auto" and linear:
        return linear[-1], layers[linear[-1]]
    if head in layers:
        return head, layers[head]
    why = "there is no linear layer" if head == "auto" else "there is no such linear layer or 1 x 1 convolution"
    names = ", ".join(list(layers)[-3:]) or "none"
    close = difflib.get_close_matches(head, layers, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise ValueError(f"model.net.head: {head!r}, and {why} in {type(network).__name__}; the last ones: {names}{hint}")
