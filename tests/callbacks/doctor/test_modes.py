"""A step's network once more, in evaluation mode: found however the step calls it, and left as it was."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.doctor.modes import Replay, compare
from callbacks.doctor.probe import Probe

X, Y = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


class Parts(nn.Module):
    """Dropout of a half, so that the modes differ, and two parts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Several(Parts):
    """Gives more than its prediction."""

    def forward(self, x: Tensor) -> Any:
        features = self.body(x)
        return {"features": features, "logits": self.head(features)}


def step(module: nn.Module, loss: Any, batch: Any) -> tuple[list[float | None] | None, Replay]:
    probe, replay = Probe(), Replay(module)
    probe.watch(module)
    try:
        loss(module, batch)
    finally:
        probe.leave()
        replay.leave()
    assert probe.again is not None
    return compare(replay, probe.again, probe.calls[0], batch), replay


def whole(module: Any, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def by_name(module: Any, batch: Any) -> Tensor:
    return F.cross_entropy(module.head(module.body(batch["x"])), batch["y"])


def scaled(module: Any, batch: Any) -> Tensor:
    return F.cross_entropy(module.head(module.body(batch["x"] / 1.0)), batch["y"])


def of_several(module: Any, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0])["logits"], batch[1])


def as_text(module: Any, batch: Any) -> Tensor:
    logits = module.head(module.body(batch[0])).view(3, 4, 3)
    return F.cross_entropy(logits.view(-1, 3), batch[1])


def classes_second(module: Any, batch: Any) -> Tensor:
    return F.cross_entropy(module.head(module.body(batch[0]).view(3, 4, 32)).transpose(1, 2), batch[1].view(3, 4))


@pytest.mark.parametrize(
    ("kind", "loss", "batch"),
    [
        (Parts, whole, (X, Y)),
        (Parts, by_name, {"x": X, "y": Y}),
        (Parts, scaled, {"x": X, "y": Y}),
        (Several, of_several, [X, Y]),
        (Parts, as_text, (X, Y)),
    ],
)
def test_the_loss_of_the_same_samples_in_evaluation_mode(kind: type[Parts], loss: Any, batch: Any) -> None:
    module = kind()
    module(X)  # running statistics move
    seed = torch.random.get_rng_state()
    found, _ = step(module, loss, batch)
    after = torch.random.get_rng_state()
    statistics = {name: value.clone() for name, value in module.state_dict().items()}
    expected = Parts().eval()
    expected.load_state_dict(statistics)
    with torch.no_grad():
        value = F.cross_entropy(expected(X), Y)
        accuracy = (expected(X).argmax(1) == Y).float().mean()
    assert found is not None
    assert found[1] == pytest.approx(float(value))
    assert found[3] == pytest.approx(float(accuracy))
    assert found[0] != pytest.approx(found[1])
    assert all(part.training for part in module.modules())
    torch.random.set_rng_state(seed)
    loss(module, batch)  # the step draws as much without the look at it
    assert torch.equal(torch.random.get_rng_state(), after)
    assert not any(part._forward_hooks for part in module.modules())


def test_classes_may_be_second() -> None:
    class Shaped(Parts):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).view(3, 4, 3)

    found, _ = step(Shaped(), lambda m, b: F.cross_entropy(m(b[0]).transpose(1, 2), b[1].view(3, 4)), (X, Y))
    assert found is not None
    assert found[3] is not None


def test_nothing_is_said_of_what_is_not_seen() -> None:
    between = lambda m, b: F.cross_entropy(m.head(torch.tanh(m.body(b[0]))), b[1])  # noqa: E731
    after = lambda m, b: F.cross_entropy(m.head(m.body(b[0])) * 2, b[1])  # noqa: E731
    assert step(Parts(), between, (X, Y))[0] is None
    assert step(Parts(), after, (X, Y))[0] is None
    assert step(Parts(), classes_second, (X, Y))[0] is None, "the view between the parts"


def test_a_module_that_can_not_be_called_twice_is_left_alone() -> None:
    class Once(Parts):
        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                raise RuntimeError("only for training")
            return super().forward(x)

    module = Once()
    assert step(module, whole, (X, Y))[0] is None
    assert module.training
