"""`modules.nets.ResNet`: the networks of the paper, by their published numbers."""

from typing import Any

import pytest
import torch

from modules.nets import ResNet


def net(**options: Any) -> ResNet:
    return ResNet(**({"in_channels": 3, "image_size": (224, 224), "num_classes": 1000} | options))


# published for ImageNet, in millions: 11.7, 21.8, 25.6 (torchvision's tables give these counts)
@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)])
def test_parameters_are_as_many_as_published(depth: Any, parameters: int) -> None:
    with torch.device("meta"):
        found = net(depth=depth)
        outputs = found(torch.zeros(2, 3, 224, 224))
    assert sum(p.numel() for p in found.parameters()) == parameters
    assert outputs.shape == (2, 1000)


def test_names_are_those_of_weights_from_elsewhere() -> None:
    names = set(net(depth=50, width=8).state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv3.weight", "layer4.2.bn3.bias", "fc.bias"} <= names
    assert {"layer1.0.downsample.0.weight", "layer2.0.downsample.1.running_mean"} <= names
    assert "layer1.0.downsample.0.weight" not in net(depth=18, width=8).state_dict()


@pytest.mark.parametrize(("size", "stride"), [((28, 28), 1), ((32, 95), 1), ((96, 96), 4), ((224, 300), 4)])
def test_small_images_keep_their_size_in_the_stem(size: tuple[int, int], stride: int) -> None:
    found = net(image_size=size, width=4)
    x = torch.zeros(1, 3, *size)
    stem = found.maxpool(found.conv1(x))
    assert tuple(stem.shape[2:]) == tuple(-(-side // stride) for side in size)
    assert found(x).shape == (1, 1000)
    for name, expected in (("cifar", 1), ("imagenet", 4)):
        fixed = net(image_size=size, width=4, stem=name)
        assert fixed.maxpool(fixed.conv1(x)).shape[2] == -(-size[0] // expected)


def test_blocks_start_as_the_identity_and_learn() -> None:
    found = net(image_size=(16, 16), width=4, depth=50, num_classes=3)
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(found.layer1[1](x), x)
    found(torch.rand(4, 3, 16, 16)).sum().backward()
    assert all(p.grad is not None for p in found.parameters())


def test_weights_vary_by_he_s_rule() -> None:
    weight = net(width=64).layer3[1].conv2.weight  # 256 channels of 3 x 3
    assert float(weight.detach().std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 19}, "model.net.depth: 19 is unknown; allowed are 18, 34, 50"),
        ({"width": 0}, "model.net.width: 0 is not a positive number"),
        ({"stem": "big"}, "model.net.stem: 'big' is unknown; allowed are auto, cifar, imagenet"),
        ({"dropout": 1.0}, r"model.net.dropout: 1.0 is outside \[0, 1\)"),
    ],
)
def test_impossible_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        net(**options)
