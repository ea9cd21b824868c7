"""`callbacks.Averaging`, `callbacks.ScheduleFree`: which weights are trained, which are evaluated, which are saved."""

from typing import Any

import pytest
import schedulefree
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks import Averaging, ScheduleFree
from callbacks.evaluated import TRAINED
from tests.conftest import Loader, quick_trainer

STEPS = 4  # an epoch


class Net(LightningModule):
    """A line and a normalisation."""

    def __init__(self, optimizer: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.make = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.layers(batch) - 1).pow(2).mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


class Seen(Callback):
    """The weights after each step, in each validation, and what a checkpoint of that moment would hold."""

    def __init__(self) -> None:
        self.trained: list[dict[str, Tensor]] = []
        self.evaluated: list[dict[str, Tensor]] = []
        self.saved: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.trained.append(_copy(pl_module))

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if not trainer.sanity_checking:
            self.evaluated.append(_copy(pl_module))
            self.saved.append(trainer._checkpoint_connector.dump_checkpoint(False))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved.append(trainer._checkpoint_connector.dump_checkpoint(False))


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def fit(*callbacks: Callback, epochs: int = 3, net: Net | None = None, **options: Any) -> tuple[Net, Seen]:
    net, seen = net or Net(), Seen()
    batches = Loader([torch.randn(8, 3, generator=torch.Generator().manual_seed(i)) for i in range(STEPS)])
    trainer = quick_trainer(callbacks=[*callbacks, seen], max_epochs=epochs, **options)
    trainer.fit(net, batches, Loader(batches.batches[:1]))
    return net, seen


def same(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 0.0) -> bool:
    return all(torch.allclose(a[name].double(), b[name].double(), rtol=tolerance, atol=tolerance) for name in a)


def test_training_itself_is_the_same() -> None:
    plain = fit()[1].trained
    for method in ("ema", "swa"):
        averaged = fit(Averaging(method), ScheduleFree())[1].trained
        assert all(same(a, b) for a, b in zip(plain, averaged, strict=True))


def test_ema_is_the_average_by_its_formula() -> None:
    net, seen = fit(Averaging("ema", decay=0.5))
    expected = seen.trained[0]
    for number, weights in enumerate(seen.trained[1:], 1):
        old = min(0.5, (1 + number) / (10 + number))
        expected = {name: old * expected[name] + (1 - old) * value for name, value in weights.items()}
        if (number + 1) % STEPS == 0:
            floats = {name: value for name, value in expected.items() if "num_batches" not in name}
            assert same(floats, seen.evaluated[number // STEPS], 1e-6)
    assert same(seen.evaluated[-1], net.state_dict()), "the module keeps what was evaluated"
    assert not same(seen.evaluated[-1], seen.trained[-1], 1e-3)


def test_swa_is_the_mean_over_the_ends_of_epochs() -> None:
    _, seen = fit(Averaging("swa", start_epoch=1), epochs=4)
    ends = [seen.trained[STEPS * (epoch + 1) - 1] for epoch in range(4)]
    assert same(seen.evaluated[0], ends[0]), "there is no average yet"
    for last in (1, 2, 3):
        for name in ends[0]:
            if "num_batches" not in name:
                mean = torch.stack([end[name] for end in ends[1 : last + 1]]).mean(0)
                assert torch.allclose(seen.evaluated[last][name], mean, atol=1e-6), name


def test_swa_begins_after_three_quarters() -> None:
    _, seen = fit(Averaging("swa"), epochs=4)
    ends = [seen.trained[STEPS * (epoch + 1) - 1] for epoch in range(4)]
    assert all(same(seen.evaluated[epoch], ends[epoch]) for epoch in range(4))
    with pytest.raises(ValueError, match=r"^averaging.start_epoch: swa needs it, where trainer.max_epochs"):
        fit(Averaging("swa"), epochs=-1, max_steps=3)


@pytest.mark.parametrize("kind", ["ema", "schedulefree"])
def test_a_checkpoint_holds_both_at_any_time(kind: str) -> None:
    if kind == "ema":
        _, seen = fit(Averaging("ema"), ScheduleFree())
    else:
        _, seen = fit(ScheduleFree(), net=Net(lambda p: schedulefree.AdamWScheduleFree(p, lr=0.1)))
    for epoch in range(3):
        for when in range(2):  # within the validation, and after it
            saved = seen.saved[2 * epoch + when]
            assert same(saved["state_dict"], seen.evaluated[epoch])
            assert same(saved[TRAINED], seen.trained[STEPS * (epoch + 1) - 1])
            assert not same(saved[TRAINED], saved["state_dict"], 1e-4)
            group = saved["optimizer_states"][0]["param_groups"][0]
            assert group.get("train_mode", True)


def test_schedule_free_is_evaluated_as_its_authors_do() -> None:
    def make(parameters: Any) -> Any:
        return schedulefree.SGDScheduleFree(parameters, lr=0.1)

    _, seen = fit(ScheduleFree(), net=Net(make))
    # the same by hand
    net = Net(make)
    optimizer: Any = net.configure_optimizers()
    for epoch in range(3):
        optimizer.train()
        net.train()
        for i in range(STEPS):
            optimizer.zero_grad()
            net.training_step(torch.randn(8, 3, generator=torch.Generator().manual_seed(i)), i).backward()
            optimizer.step()
        assert same(seen.trained[STEPS * (epoch + 1) - 1], _copy(net), 1e-5)
        optimizer.eval()
        assert same(seen.evaluated[epoch], _copy(net), 1e-5)


def test_how_often_it_is_saved_and_validated_changes_nothing_in_a_schedule_free_training() -> None:
    def trained(**options: Any) -> list[dict[str, Tensor]]:
        return fit(ScheduleFree(), net=Net(lambda p: schedulefree.AdamWScheduleFree(p, lr=0.1)), **options)[1].trained

    pairs = zip(trained(), trained(val_check_interval=1), strict=True)
    assert all(same(a, b) for a, b in pairs)


def test_a_failing_validation_leaves_the_trained_weights() -> None:
    class Failing(Net):
        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            if not self.trainer.sanity_checking:
                raise RuntimeError("here")

    net = Failing()
    with pytest.raises(RuntimeError, match="here"):
        fit(Averaging("ema"), epochs=1, net=net)
    assert same(_copy(net), fit(epochs=1)[1].trained[-1])


def test_steps_and_not_batches_are_averaged() -> None:
    one = fit(Averaging("ema"), accumulate_grad_batches=2)[1]
    expected = one.trained[1]
    for number, at in enumerate(range(3, 3 * STEPS, 2), 1):
        old = (1 + number) / (10 + number)
        expected = {name: old * expected[name] + (1 - old) * one.trained[at][name] for name in expected}
    floats = {name: value for name, value in expected.items() if "num_batches" not in name}
    assert same(floats, one.evaluated[-1], 1e-6)


def test_an_average_of_averages_is_refused() -> None:
    net = Net(lambda p: schedulefree.SGDScheduleFree(p, lr=0.1))
    with pytest.raises(ValueError, match=r"^averaging.method: SGDScheduleFree averages weights by itself; allowed is"):
        fit(Averaging("ema"), ScheduleFree(), net=net)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mean"}, "averaging.method: 'mean' is unknown; allowed are none, ema, swa"),
        ({"decay": 1.0}, r"averaging.decay: 1.0 is outside \[0, 1\)"),
        ({"start_epoch": -1}, "averaging.start_epoch: -1 is below 0"),
    ],
)
def test_what_can_not_be_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Averaging(**options)


def test_an_average_that_has_begun_does_not_pause_when_the_run_becomes_longer() -> None:
    callback = Averaging("swa", start_epoch=1)

    class Later(Callback):
        """As a run that goes on with more epochs, of which other ones are the last quarter."""

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 2:
                callback._first = 9

    _, seen = fit(callback, Later(), epochs=4)
    ends = [seen.trained[STEPS * (epoch + 1) - 1]["layers.0.weight"] for epoch in range(1, 4)]
    assert torch.allclose(seen.evaluated[-1]["layers.0.weight"], torch.stack(ends).mean(0), atol=1e-6)
