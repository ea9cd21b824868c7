"""`callbacks.Freeze`: what stays as it is, until when, and what normalisation layers do meanwhile."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks import Freeze
from modules.optimizers import ParameterGroup, Parameters
from tests.conftest import Loader, quick_trainer


class Net(LightningModule):
    """A body with a normalisation, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.head(self.norm(self.body(batch))).pow(2).mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.1)


class Seen(Callback):
    """The state after each epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.states.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def fit(*groups: ParameterGroup, epochs: int = 3, net: Any = None) -> list[dict[str, Tensor]]:
    """The state before the first epoch, and after each one."""
    net, seen = net or Net(), Seen()
    first = {name: value.clone() for name, value in net.state_dict().items()}
    batches = Loader([torch.randn(8, 3, generator=torch.Generator().manual_seed(i)) + 2 for i in range(3)])
    trainer = quick_trainer(callbacks=[Freeze(Parameters(groups=groups).frozen), seen], max_epochs=epochs)
    trainer.fit(net, batches, batches)
    return [first, *seen.states]


def changed(states: list[dict[str, Tensor]], name: str) -> list[bool]:
    """In which epochs it has changed."""
    return [not torch.equal(a[name], b[name]) for a, b in pairwise(states)]


def test_parameters_and_statistics_stay_for_so_many_epochs() -> None:
    states = fit(ParameterGroup("body.*", frozen_epochs=2))
    for name in ("body.0.weight", "body.0.bias", "body.1.weight", "body.1.running_mean", "body.1.num_batches_tracked"):
        assert changed(states, name) == [False, False, True], name
    for name in ("head.weight", "norm.weight", "norm.running_mean"):
        assert changed(states, name) == [True, True, True], name


def test_one_after_the_other_and_some_for_ever() -> None:
    states = fit(
        ParameterGroup("body.1.*", frozen_epochs=-1),
        ParameterGroup("body.*", frozen_epochs=2),
        ParameterGroup("norm.*", frozen_epochs=1),
    )
    assert changed(states, "body.1.running_var") == changed(states, "body.1.weight") == [False] * 3
    assert changed(states, "body.0.weight") == [False, False, True]
    assert changed(states, "norm.running_var") == [False, True, True]


def test_a_frozen_layer_normalises_by_its_running_statistics() -> None:
    net = Net()
    net.body[1].running_mean.fill_(5)
    modes: list[bool] = []
    net.body[1].register_forward_hook(lambda layer, *_: modes.append(layer.training))
    fit(ParameterGroup("body.*", frozen_epochs=1), epochs=2, net=net)
    # three batches of training and three of validation in each epoch, after two of the sanity check
    assert modes == [False] * 2 + [False] * 6 + [True] * 3 + [False] * 3


def test_what_the_module_froze_itself_stays_frozen() -> None:
    net = Net()
    net.body[0].weight.requires_grad_(False)
    states = fit(ParameterGroup("body.*", frozen_epochs=1), net=net)
    assert changed(states, "body.0.weight") == [False] * 3
    assert changed(states, "body.0.bias") == [False, True, True]


def test_nothing_to_train_is_told() -> None:
    with pytest.raises(ValueError, match=r"^parameters.groups: with frozen_epochs nothing is trained in epoch 0$"):
        fit(ParameterGroup("*", frozen_epochs=1))


def test_a_number_below_minus_one_is_told() -> None:
    with pytest.raises(ValueError, match=r"^parameters.groups: frozen_epochs -2 of body.\* is below -1"):
        Parameters(groups=[ParameterGroup("body.*", frozen_epochs=-2)])
