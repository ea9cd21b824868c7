"""`parameters.init`: signals as theory has them, in any module, and no word of the doctor about it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from modules.initialisation import Init, initialise
from modules.nets import MLP
from modules.nets.gpt import GPT

WIDTH, DEPTH, ROWS, CLASSES = 512, 12, 1000, 500


def rectified(how: Init, depth: int, seed: int = 0) -> MLP:
    net = MLP(WIDTH, CLASSES, WIDTH, depth)
    initialise(net, how, seed)
    return net


def inputs() -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1))


def outputs_of_layers(net: nn.Module) -> list[Tensor]:
    """What each linear layer gives, for inputs of mean 0 and variance 1."""
    seen: list[Tensor] = []
    hooks = [
        part.register_forward_hook(lambda *a: seen.append(a[2])) for part in net.modules() if type(part) is nn.Linear
    ]
    with torch.no_grad():
        net(inputs())
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(("how", "per_layer"), [("he", 1.0), ("orthogonal", 1.0), ("xavier", 0.5)])
def test_the_second_moment_goes_through_a_deep_network_as_theory_says(how: Init, per_layer: float) -> None:
    moments = [float(values.square().mean()) for values in outputs_of_layers(rectified(how, DEPTH))[:-1]]
    # He et al. 2015, equation 9: a layer multiplies it by n Var(w) / 2, for as many inputs as outputs 1 where Var(w) is
    # 2 / n, and 1 / 2 where it is 1 / n; no ReLU is before the first one. Over seeds `found` varies by 0.025
    assert moments[0] == pytest.approx(2.0 if how != "xavier" else 1.0, rel=0.05)
    found = (moments[-1] / moments[0]) ** (1 / (DEPTH - 1))
    assert found == pytest.approx(per_layer, abs=0.08)


@pytest.mark.parametrize(("how", "moment"), [("he", 1.0), ("orthogonal", 1.0), ("xavier", 0.25)])
def test_the_first_loss_is_that_of_logits_of_the_variance_that_theory_gives(how: Init, moment: float) -> None:
    made = [outputs_of_layers(rectified(how, depth=2, seed=seed))[-1] for seed in range(8)]
    labels = torch.arange(ROWS) % CLASSES
    # `moment` is the second one of the last features; the last layer's weights have a variance of 1 / n, or 2 / (n + C)
    s2 = moment if how != "xavier" else moment * 2 * WIDTH / (WIDTH + CLASSES)
    assert float(torch.stack(made).square().mean()) == pytest.approx(s2, rel=0.3)
    # the mean of ln sum exp z_i over C normal logits of variance s2 less z_y, whose mean is 0: ln of the mean of
    # exp z, which is exp(s2 / 2), has to second order that mean less half its relative variance (exp(s2) - 1) / C
    expected = math.log(CLASSES) + s2 / 2 - (math.exp(s2) - 1) / (2 * CLASSES)
    # over seeds a loss is off by 0.14 s2, as s2 is that of three layers of random weights; the mean of eight by 0.05 s2
    found = sum(float(F.cross_entropy(logits, labels)) for logits in made) / len(made)
    assert found == pytest.approx(expected, abs=0.15 * s2), "ln C alone would be 0.5 s2 less"


def assert_orthogonal(weight: Tensor, gain: float) -> None:
    matrix = weight.detach().flatten(1).double()
    matrix = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    assert torch.allclose(matrix @ matrix.T, gain**2 * torch.eye(len(matrix), dtype=torch.double), atol=1e-5)


def test_orthogonal_weights_are() -> None:
    net = nn.Sequential(
        nn.Linear(20, 30), nn.Linear(30, 10), nn.Conv2d(4, 8, 3, groups=2), nn.LSTM(5, 7), nn.Linear(7, 3)
    )
    initialise(net, "orthogonal", seed=0)
    root = math.sqrt(2)
    assert_orthogonal(net[0].weight, root)
    assert_orthogonal(net[1].weight, root)
    for group in net[2].weight.chunk(2):
        assert_orthogonal(group, root)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        for gate in getattr(net[3], name).chunk(4):
            assert_orthogonal(gate, 1)
    assert_orthogonal(net[4].weight, 1)


def variance(weight: Tensor) -> float:
    return float(weight.detach().double().var())


def test_layers_of_all_kinds_have_the_variance_of_their_connections() -> None:
    attention, other = nn.MultiheadAttention(64, 4), nn.MultiheadAttention(64, 4, kdim=32, vdim=32)
    gru = nn.GRU(32, 64, bidirectional=True)
    net = nn.ModuleList(
        [attention, other, gru, nn.Conv2d(16, 32, 5, groups=2), nn.ConvTranspose2d(16, 32, 4, 2), nn.GRUCell(32, 64),
         nn.Linear(64, 64)]
    )  # fmt: skip
    conv, transposed, cell, last = net[3:]
    for part in net.modules():
        for parameter in part.parameters(recurse=False):
            nn.init.constant_(parameter, 3.0)
    initialise(net, "he", seed=0)
    # inputs of a unit; twice as much before a ReLU
    expected: list[tuple[Any, float]] = [
        (attention.in_proj_weight, 1 / 64), (attention.out_proj.weight, 1 / 64), (other.k_proj_weight, 1 / 32),
        (other.q_proj_weight, 1 / 64), (gru.weight_ih_l0, 1 / 32), (gru.weight_hh_l0_reverse, 1 / 64),
        (cell.weight_ih, 1 / 32), (conv.weight, 2 / (8 * 25)), (transposed.weight, 2 / (16 * 16 / 4)),
        (last.weight, 1 / 64),
    ]  # fmt: skip
    for weight, value in expected:
        assert variance(weight) == pytest.approx(value, rel=0.12)
    biases = [p for name, p in net.named_parameters() if "bias" in name]
    assert len(biases) == 2 + 2 + 4 + 2 + 3
    assert not any(bias.any() for bias in biases)
    initialise(net, "xavier", seed=0)
    glorot = [
        (attention.in_proj_weight, 2 / 128), (gru.weight_ih_l0, 2 / 96), (conv.weight, 2 / (8 * 25 + 16 * 25)),
        (last.weight, 2 / 128),
    ]  # fmt: skip
    for weight, value in glorot:
        assert variance(weight) == pytest.approx(value, rel=0.12)


def test_a_transposed_convolution_keeps_the_second_moment() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 32, 3), nn.Linear(3, 1))
    initialise(net, "he", seed=0)
    x = torch.randn(8, 32, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        up = net[0](x)
        further = net[2](net[1](up))
    assert float(up[..., 2:-2, 2:-2].square().mean()) == pytest.approx(2, rel=0.1)
    assert float(further[..., 4:-4, 4:-4].square().mean()) == pytest.approx(2, rel=0.2)


def test_what_is_no_weight_or_is_not_trained_stays() -> None:
    frozen = nn.Linear(4, 4).requires_grad_(False)
    kept = nn.ModuleList([nn.Embedding(5, 4), nn.LayerNorm(4), nn.BatchNorm1d(4), frozen])
    for parameter in kept.parameters():
        nn.init.constant_(parameter, 0.5)
    net = nn.ModuleList([kept, nn.Linear(4, 4)])
    before = net[1].weight.clone()
    initialise(net, "he", seed=0)
    assert all((parameter == 0.5).all() for parameter in kept.parameters())
    assert not torch.equal(net[1].weight, before)
    gpt = GPT(vocab_size=50, context=8, depth=1, width=16, heads=2)
    embedding = gpt.embedding.weight.clone()
    initialise(gpt, "he", seed=0)
    assert torch.equal(gpt.head.weight, embedding), "the head has the embedding's weights"


def test_a_normalised_weight_gets_the_values_all_the_same() -> None:
    net = nn.Sequential(weight_norm(nn.Linear(200, 200)), nn.Linear(200, 2))
    initialise(net, "he", seed=0)
    assert variance(net[0].weight) == pytest.approx(2 / 200, rel=0.05)


def test_the_seed_says_which_weights_and_default_changes_nothing() -> None:
    net = MLP(8, 3)
    first = [p.clone() for p in net.parameters()]
    initialise(net, "default", seed=0)
    assert all(map(torch.equal, net.parameters(), first))
    made = []
    for seed in (0, 0, 1):
        state = torch.get_rng_state()
        initialise(net, "he", seed)
        assert torch.equal(torch.get_rng_state(), state), "dropout and augmentation draw the same as without it"
        made.append(net.layers[1].weight.clone())
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (
            nn.Sequential(nn.LazyLinear(3)),
            "parameters.init: he needs all shapes, and 0.weight of Sequential has none yet",
        ),
        (
            nn.Embedding(3, 4),
            "parameters.init: he, and Embedding has no linear, convolutional, recurrent or attention",
        ),
    ],
)
def test_a_module_that_it_can_do_nothing_for_is_told(net: nn.Module, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        initialise(net, "he", seed=0)
    assert "\n" not in str(caught.value)
