"""`modules.nets.CNN`: any image, and exactly the layers that its arguments say."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.nets import CNN

NORMS = ("batch", "group", "layer", "none")
SIZES = ((1, 8, 8), (1, 28, 28), (1, 5, 7), (1, 1, 1), (3, 96, 96), (3, 16, 200))


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", SIZES)
def test_every_image_size_gives_logits_and_trains_every_weight(size: tuple[int, int, int], norm: Any) -> None:
    net = CNN(size[0], size[1:], 3, width=8, depth=3, norm=norm)
    logits = net(images(4, *size))
    assert logits.shape == (4, 3)
    logits.logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


# by hand, for one channel, three classes and width 4: convolutions of 3 x 3 without bias where a norm of 2 numbers per
# channel follows, with bias otherwise; the stem of images from 16 pixels on is 5 x 5
COUNTS = {
    ((8, 8), 1, "batch"): (9 * 4 + 8) + 2 * (4 * 9 * 4 + 8) + (4 * 3 + 3),
    ((8, 8), 1, "layer"): (9 * 4 + 8) + 2 * (4 * 9 * 4 + 8) + (4 * 3 + 3),
    ((8, 8), 1, "none"): (9 * 4 + 4) + 2 * (4 * 9 * 4 + 4) + (4 * 3 + 3),
    ((8, 8), 2, "batch"): 44 + 2 * 152 + (4 * 9 * 8 + 16) + (8 * 9 * 8 + 16) + (8 * 3 + 3),
    ((28, 28), 1, "batch"): (25 * 4 + 8) + 2 * 152 + (4 * 3 + 3),
}


@pytest.mark.parametrize(("size", "depth", "norm"), COUNTS)
def test_width_and_depth_give_the_parameters_counted_by_hand(size: tuple[int, int], depth: int, norm: Any) -> None:
    assert parameters(CNN(1, size, 3, width=4, depth=depth, norm=norm)) == COUNTS[size, depth, norm]


@pytest.mark.parametrize("norm", NORMS)
def test_only_batch_norm_lets_the_samples_of_a_batch_see_each_other(norm: Any) -> None:
    net = CNN(1, (8, 8), 3, width=8, norm=norm).train()
    x = images(4, 1, 8, 8)
    together, apart = net(x)[:2], net(x[:2])
    assert torch.allclose(together, apart, atol=1e-5) == (norm != "batch")


def test_group_norm_goes_over_eight_channels_and_layer_norm_over_all() -> None:
    def group_sizes(net: nn.Module) -> set[int]:
        return {m.num_channels // m.num_groups for m in net.modules() if isinstance(m, nn.GroupNorm)}

    assert group_sizes(CNN(1, (8, 8), 3, width=16, norm="group")) == {8}
    assert group_sizes(CNN(1, (8, 8), 3, width=16, norm="layer")) == {16, 32}


def test_dropout_drops_its_share_while_training_and_nothing_in_evaluation() -> None:
    net = CNN(1, (8, 8), 10, width=64, depth=1, dropout=0.25, norm="none")
    share: list[float] = []
    net.head[-1].register_forward_pre_hook(lambda _, args: share.append(float((args[0] == 0).float().mean())))
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(0.01)  # positive features: what is zero was dropped
    torch.manual_seed(0)
    x = images(100, 1, 8, 8) + 0.1
    net.train()(x)
    net.eval()(x)
    assert share[0] == pytest.approx(0.25, abs=0.03)  # 6,400 draws: a standard deviation of 0.005
    assert share[1] == 0


def test_a_class_shows_wherever_it_is_in_the_image() -> None:
    net = CNN(1, (64, 64), 3, width=8, depth=1, norm="none").eval()  # pooled over the whole image
    x = torch.zeros(2, 1, 64, 64)
    patch = images(8, 8)
    x[0, 0, 16:24, 16:24] = patch
    x[1, 0, 32:40, 32:40] = patch  # 16 pixels on, a multiple of the strides
    first, second = net(x)
    assert torch.allclose(first, second, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "model.net: width 0 and depth 2 must be at least 1"),
        ({"depth": -1}, "model.net: width 32 and depth -1 must be at least 1"),
        ({"dropout": 1.0}, "model.net.dropout: 1.0 is outside [0, 1)"),
        ({"dropout": -0.1}, "model.net.dropout: -0.1 is outside [0, 1)"),
    ],
)
def test_impossible_values_are_refused_by_the_name_of_their_key(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        CNN(1, (8, 8), 3, **options)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm"):
        CNN(1, (8, 8), 3, norm="bacth")  # type: ignore[arg-type]
