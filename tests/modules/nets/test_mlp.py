"""`modules.nets.MLP`: the layers that its arguments say."""

from math import prod
from typing import Any

import pytest
import torch

from modules.nets import MLP


@pytest.mark.parametrize("size", [(1, 8, 8), (1, 28, 28), (1, 5, 7), (1, 1, 1), (3, 96, 96)])
def test_every_image_size_gives_logits_and_trains_every_weight(size: tuple[int, int, int]) -> None:
    net = MLP(prod(size), 3, width=8)
    logits = net(torch.rand(4, *size, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (4, 3)
    logits.logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (0, 12 * 5 + 5),  # 3 x 2 x 2 inputs to 5 classes
        (1, (12 * 7 + 7) + (7 * 5 + 5)),
        (3, (12 * 7 + 7) + 2 * (7 * 7 + 7) + (7 * 5 + 5)),
    ],
)
def test_width_and_depth_give_the_parameters_counted_by_hand(depth: int, expected: int) -> None:
    net = MLP(12, 5, width=7, depth=depth)
    assert sum(p.numel() for p in net.parameters()) == expected


def test_a_norm_and_an_activation_stand_between_the_layers() -> None:
    kinds = [type(layer).__name__ for layer in MLP(4, 2, depth=1, activation="tanh", norm="batch").layers]
    assert kinds == ["Flatten", "Linear", "BatchNorm1d", "Tanh", "Dropout", "Linear"]
    assert MLP(4, 2, norm="layer", activation="silu")(torch.randn(3, 4)).shape == (3, 2)


def test_depth_0_is_a_linear_model_and_depth_1_is_not() -> None:
    def bend(depth: int) -> float:
        torch.manual_seed(0)
        net = MLP(16, 3, width=32, depth=depth)
        a, b = torch.randn(2, 1, 1, 4, 4)
        return float((net((a + b) / 2) - (net(a) + net(b)) / 2).detach().abs().max())

    assert bend(0) < 1e-6
    assert bend(1) > 1e-3


def test_dropout_works_while_training_only() -> None:
    torch.manual_seed(0)
    net, x = MLP(16, 3, dropout=0.5), torch.ones(1, 1, 4, 4)
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


def test_without_dropout_training_and_evaluation_give_the_same() -> None:
    net, x = MLP(16, 3), torch.ones(1, 1, 4, 4)
    assert torch.equal(net.train()(x), net.eval()(x))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    "options", [{"width": 0}, {"depth": -1}, {"depth": 0, "dropout": 1.5}, {"norm": "x"}, {"activation": "x"}]
)
def test_impossible_values_are_refused_by_the_name_of_their_key(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^model\.net"):
        MLP(64, 3, **options)
