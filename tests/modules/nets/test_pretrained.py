"""`modules.nets.Pretrained`: networks of any package, with a new last layer."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.nets import Pretrained

HERE = "tests.modules.nets.test_pretrained"


class Plain(nn.Module):
    """A network as packages have them: its head is neither first nor last."""

    def __init__(self, width: int = 6, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(width, classes))
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Any:
        return self.classifier(self.norm(self.stem(x)).mean((2, 3)))

    @classmethod
    def wide(cls, times: int = 2) -> "Plain":
        return cls(width=6 * times)


class WithLogits(Plain):
    """Gives an object, as transformers do."""

    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(logits=super().forward(x))


class Convolutional(nn.Sequential):
    """Its classes come out of a convolution."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 1000, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def made_by_a_function(width: int) -> nn.Module:
    return Plain(width)


def pretrained(name: str, head: str = "auto", **init_args: Any) -> Pretrained:
    return Pretrained(f"{HERE}.{name}", 4, init_args, head)


@pytest.mark.parametrize(
    ("name", "init_args", "original", "replaced", "width"),
    [
        ("Plain", {}, Plain, "classifier.1", 6),
        ("Plain.wide", {"times": 3}, lambda: Plain.wide(3), "classifier.1", 18),
        ("made_by_a_function", {"width": 5}, lambda: Plain(5), "classifier.1", 5),
        ("WithLogits", {}, Plain, "classifier.1", 6),
        ("Convolutional", {"head": "1"}, Convolutional, "1", 8),
    ],
)
def test_the_last_layer_is_a_new_one_in_the_same_place(
    name: str, init_args: dict[str, Any], original: Any, replaced: str, width: int
) -> None:
    net, same = pretrained(name, **init_args).eval(), original().eval()
    assert net.head.weight.shape == (4, width)
    same.load_state_dict(net.backbone.state_dict(), strict=False)
    if replaced == "1":
        layer: nn.Module = nn.Conv2d(width, 4, 1)
        layer.load_state_dict({"weight": net.head.weight[:, :, None, None], "bias": net.head.bias})
    else:
        layer = net.head
    same.set_submodule(replaced, layer)
    x = torch.randn(2, 3, 5, 5)
    assert torch.allclose(net(x), same(x), atol=1e-6)


def test_its_weights_are_called_backbone_and_head() -> None:
    names = {name.split(".")[0] for name, _ in pretrained("Plain").named_parameters()}
    assert names == {"backbone", "head"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "Plane"}, f"model.net.network: no 'Plane' in {HERE}; did you mean 'Plain'"),
        (
            {"name": "Plain", "depth": 3},
            r"model.net.arguments: .*Plain can't be made with {'depth': 3}: TypeError: .* keyword argument 'depth'",
        ),
        (
            {"name": "Plain", "head": "fc"},
            "'fc', and there is no such linear layer or 1 x 1 convolution in Plain; ",
        ),
        ({"name": "Plain", "head": "clasifier.1"}, "did you mean 'classifier.1'?"),
        ({"name": "HERE"}, "model.net.network: .*HERE is a str, and makes nothing"),
    ],
)
def test_what_can_not_be_made_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as told:
        pretrained(**options)
    assert str(told.value).startswith("model.net.")
    assert "\n" not in str(told.value)


def test_a_package_that_is_not_there_is_told() -> None:
    message = (
        r"^model.net.network: no_such_package.Net, and no package 'no_such_package' is installed here; that of the"
    )
    with pytest.raises(ValueError, match=message):
        Pretrained("no_such_package.Net", 3)
    with pytest.raises(ValueError, match=r"^model.net.network: 'resnet18' is no path of a class or a function"):
        Pretrained("resnet18", 3)


def test_a_layer_that_is_not_the_last_one_is_told() -> None:
    net = pretrained("Convolutional", head="1")
    net.backbone[0] = nn.Conv2d(3, 9, 3)
    with pytest.raises(ValueError, match=r"model.net.head: 1 is not the layer that makes the outputs.*\(2, 9\) for 2"):
        net(torch.zeros(2, 3, 5, 5))
