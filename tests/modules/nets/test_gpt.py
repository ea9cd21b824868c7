"""`modules.nets.GPT`: no token sees the future, and the cache changes nothing."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nets import GPT
from modules.nets.gpt import QueriesKeysTurned, ReLUSquared, turned

VOCAB, CONTEXT = 50, 16


def net(**options: Any) -> GPT:
    torch.manual_seed(0)
    made = GPT(VOCAB, CONTEXT, **({"depth": 2, "heads": 2, "width": 16} | options))
    for parameter in made.parameters():  # far from the start, where all is nearly 0
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


def tokens(count: int = CONTEXT, rows: int = 3) -> Tensor:
    return torch.randint(VOCAB, (rows, count), generator=torch.Generator().manual_seed(1))


KINDS: list[dict[str, Any]] = [{}, {"positions": "learned", "activation": "gelu"}]


@pytest.mark.parametrize("options", KINDS)
def test_a_token_sees_those_before_it_and_none_after(options: dict[str, Any]) -> None:
    found, x = net(**options), tokens()
    logits = found(x)
    assert logits.shape == (3, CONTEXT, VOCAB)
    for place in (0, 5, CONTEXT - 1):
        other = x.clone()
        other[:, place] = (other[:, place] + 1) % VOCAB
        changed = (found(other) - logits).abs().amax(2) > 1e-6
        assert not changed[:, :place].any()
        assert changed[:, place:].all()


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("cuts", [[1] * CONTEXT, [5, 1, 1, 9], [16]])
def test_the_cache_gives_what_the_whole_gives(options: dict[str, Any], cuts: list[int]) -> None:
    found, x = net(**options), tokens()
    cache: list[Any] = []
    pieces = [found(piece, cache) for piece in x.split(cuts, 1)]
    assert torch.allclose(torch.cat(pieces, 1), found(x), atol=1e-5)
    assert len(cache) == 2
    assert cache[0][0].shape == (3, 2, CONTEXT, 8)
    with pytest.raises(ValueError, match=r"^model.net: 17 tokens, and data.context is 16$"):
        found(x[:, :1], cache)


def test_rotary_positions_keep_lengths_and_depend_on_distance_alone() -> None:
    turns = net(width=32, heads=1).turns
    assert turns is not None
    vectors = torch.randn(2, 1, 1, 32, generator=torch.Generator().manual_seed(2))
    q, k = (turned(v.expand(1, CONTEXT, 1, 32), turns[:, None])[0, :, 0] for v in vectors)
    assert torch.allclose(q.norm(dim=1), vectors[0].norm().expand(CONTEXT), atol=1e-5)
    scores = q @ k.T
    for distance in range(CONTEXT):
        assert float(scores.diagonal(distance).std(correction=0)) < 1e-4
    assert float(scores[0].std()) > 0.1


def test_queries_and_keys_turned_in_place_have_the_values_and_gradients_of_the_formula() -> None:
    turns = net(width=16, heads=2).turns
    assert turns is not None
    x = torch.randn(3, 5, 48, generator=torch.Generator().manual_seed(3), requires_grad=True)
    mixing = torch.randn(3, 5, 2, 8, generator=torch.Generator().manual_seed(4))

    def mixed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q * mixing).sin() * k.cos() * v).transpose(1, 2).sum()  # whose gradients are no plain blocks of memory

    whole, *found = QueriesKeysTurned.apply(x.clone(), 2, turns[2:7, None])
    q, k, v = x.view(3, 5, 3, 2, 8).unbind(2)
    expected = [turned(q, turns[2:7, None]), turned(k, turns[2:7, None]), v]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(whole, torch.stack(expected, 2).flatten(2))
    (one,), (other,) = (torch.autograd.grad(mixed(*parts), x) for parts in (found, expected))
    assert torch.allclose(one, other, atol=1e-6)
    assert float((one - torch.autograd.grad(mixed(q, k, v), x)[0]).abs().max()) > 0.1


def test_attention_is_that_of_the_formula() -> None:
    made, x = net(positions="learned", depth=1, heads=1).blocks[0].attention, torch.randn(1, 5, 16)  # type: ignore[union-attr]
    q, k, v = made.queries_keys_values(x).chunk(3, 2)  # type: ignore[operator, union-attr]
    scores = (q @ k.transpose(1, 2) / math.sqrt(16)).masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
    assert torch.allclose(made(x, None), made.project(scores.softmax(2) @ v), atol=1e-5)  # type: ignore[operator, union-attr]


def test_the_squared_rectifier_has_the_gradient_of_the_formula() -> None:
    x = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    positive, squared = ReLUSquared.apply(x.clone())
    assert torch.equal(positive, x.relu())
    assert torch.equal(squared, x.relu().square())
    (found,) = torch.autograd.grad(squared.sin().sum(), x)
    (expected,) = torch.autograd.grad(x.relu().square().sin().sum(), x)
    assert torch.allclose(found, expected)


def test_checkpointed_activations_give_the_same_gradients() -> None:
    gradients = []
    for kept in (False, True):
        made = net(dropout=0.2, checkpoint_activations=kept).train()
        torch.manual_seed(3)
        F.cross_entropy(made(tokens()).flatten(0, 1), tokens().flatten()).backward()
        gradients.append([p.grad for p in made.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_an_untrained_net_knows_nothing_and_shares_its_embedding() -> None:
    torch.manual_seed(0)
    made = GPT(256, 64)
    assert made.head.weight is made.embedding.weight
    assert sum(p.numel() for p in made.parameters()) == 256 * 128 + 4 * (12 * 128 * 128 + 2 * 128) + 128
    x = torch.randint(256, (8, 65))
    loss = F.cross_entropy(made(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
    assert float(loss.detach()) == pytest.approx(math.log(256), rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "model.net.depth: 0 is not a positive number"),
        ({"width": 18}, "model.net.width: 18 is no multiple of twice the 2 heads"),
        ({"dropout": 1.0}, r"model.net.dropout: 1.0 is outside \[0, 1\)"),
        ({"positions": "sine"}, "model.net.positions: 'sine' is unknown; allowed are rotary, learned"),
        ({"activation": "relu"}, "model.net.activation: 'relu' is unknown; allowed are gelu, relu_squared"),
    ],
)
def test_impossible_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        net(**options)
