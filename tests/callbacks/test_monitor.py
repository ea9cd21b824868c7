"""What is measured inside a training, and that measuring changes nothing."""

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import Monitor
from callbacks.monitor import BINS, Reading, _histogram, moments
from tests.conftest import SMALL, Command, quick_trainer
from tests.same import differences, scalars

RUN = Path("lightning_logs/cnn/version_0")


class Readings(Callback):
    """Keeps what a monitor has read, step by step."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.found: list[Reading] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        reading = self.monitor.reading
        if reading is not None and reading.loss is not None and reading not in self.found:
            self.found.append(reading)


class Small(LightningModule):
    """Two layers and a rectifier between them; SGD, so that a step is the rate times the gradient."""

    rate = 0.25
    kept: ClassVar[dict[int, dict[str, tuple[Tensor, Tensor]]]] = {}

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = net or nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        self.kept.clear()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net(batch[0]).pow(2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=self.rate)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        named = {name: p for name, p in self.named_parameters() if p.grad is not None}
        self.kept[self.global_step + 1] = {
            name: (p.detach().clone(), p.grad.to_dense().clone())  # type: ignore[union-attr]
            for name, p in named.items()
        }


def data(count: int = 40, size: int = 4) -> DataLoader:
    return DataLoader(
        TensorDataset(torch.randn(count, 4, generator=torch.Generator().manual_seed(1))[:, :size]), batch_size=size
    )


def read(module: LightningModule, loader: Any = None, monitor: Monitor | None = None, **options: Any) -> list[Reading]:
    monitor = monitor or Monitor(2, 4)
    readings = Readings(monitor)
    trainer = quick_trainer(callbacks=[monitor, readings], **options)
    trainer.fit(module, loader or data())
    return readings.found


# ---- moments


def test_moments_are_those_of_all_values_of_a_name() -> None:
    generator = torch.Generator().manual_seed(3)
    parts = [torch.randn(5, 3, generator=generator) * 2 + 1, torch.randn(7, generator=generator), torch.ones(2, 2)]
    found = moments(["a", "a", "b"], parts)
    together = torch.cat([part.flatten() for part in parts[:2]]).double()
    assert found["a"].norm == pytest.approx(float(together.norm()), rel=1e-6)
    assert found["a"].mean == pytest.approx(float(together.mean()), rel=1e-5)
    assert found["a"].var == pytest.approx(float(together.var(correction=0)), rel=1e-5)
    assert (found["b"].norm, found["b"].mean, found["b"].var) == (2.0, 1.0, 0.0)


def test_moments_of_odd_tensors() -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.tensor([1.0, 2.0]), (4,), check_invariants=True)
    assert moments(["s"], [sparse])["s"].norm == 3.0
    assert moments(["c"], [torch.tensor([3 + 4j])])["c"].norm == pytest.approx(5.0)
    assert moments(["h"], [torch.full((4,), 2.0, dtype=torch.float16)])["h"].mean == 2.0
    assert moments(["e"], [torch.empty(0)])["e"].norm == 0.0
    assert math.isnan(moments(["n"], [torch.tensor([1.0, math.nan])])["n"].norm)
    assert moments([], []) == {}


# ---- histograms


@pytest.mark.parametrize("shape", [(2,), (7, 3), (300, 50)])
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-20, 0.0), (1e15, 0.0), (0.01, 100.0)])
def test_a_histogram_counts_as_numpy_does(shape: tuple[int, ...], scale: float, offset: float) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * scale + offset
    found = _histogram(values)
    assert (found.num, found.min, found.max) == (values.numel(), values.min(), values.max())
    assert found.bucket_limit[-1] == pytest.approx(found.max)
    numbers = values.numpy().astype(float).ravel()
    expected, _ = np.histogram(numbers, BINS, (found.min, found.max))
    # rounding may put one at an edge beside it
    assert np.abs(np.cumsum(found.bucket) - np.cumsum(expected)).max() <= 2 + values.numel() / 1000
    assert sum(found.bucket) == values.numel()
    assert found.sum == pytest.approx(numbers.sum(), rel=1e-3, abs=1e-3 * scale * len(numbers))


@pytest.mark.parametrize("value", [0.0, 3.0, -1e-38])
@pytest.mark.parametrize("further", [0.0, 1e-38])  # a range that float32 can't divide
def test_a_histogram_of_equal_values_has_one_full_bin(value: float, further: float) -> None:
    values = torch.full((4, 5), value)
    values[0, 0] += further
    found = _histogram(values)
    assert sorted(found.bucket)[-2:] == [0, 20]
    assert len(found.bucket) == len(found.bucket_limit) == BINS


@pytest.mark.parametrize("worst", [math.nan, math.inf, 1e30])
def test_there_is_no_histogram_of_what_is_not_finite(worst: float) -> None:
    assert not _histogram(torch.tensor([1.0, worst])).bucket


# ---- readings


def test_the_steps_that_are_looked_at() -> None:
    found = read(Small())
    assert [reading.step for reading in found] == [1, 2, 4, 6, 8, 10]
    assert [reading.step for reading in found if reading.updates] == [1, 4, 8]
    assert all(reading.loss is not None and reading.lr == [0.25] for reading in found)


def test_gradients_and_updates_are_those_of_the_step() -> None:
    module = Small()
    found = {reading.step: reading for reading in read(module)}
    for step in (1, 4, 8):
        kept = module.kept[step]
        weight, bias = kept["net.2.weight"], kept["net.2.bias"]
        gradients = torch.cat([weight[1].flatten(), bias[1]])
        weights = torch.cat([weight[0].flatten(), bias[0]])
        reading = found[step]
        assert set(reading.grads) == set(reading.updates) == {"net.0", "net.2"}
        assert reading.grads["net.2"].norm == pytest.approx(float(gradients.norm()), rel=1e-5)
        assert reading.grads["net.2"].mean == pytest.approx(float(gradients.mean()), rel=1e-4)
        assert reading.updates["net.2"] == pytest.approx(0.25 * float(gradients.norm() / weights.norm()), rel=1e-3)
        everything = torch.cat([gradient.flatten() for _, gradient in kept.values()])
        assert reading.grad_norm == pytest.approx(float(everything.norm()), rel=1e-5)


def test_gradients_are_seen_before_they_are_clipped() -> None:
    module = Small()
    (first, *_) = read(module, gradient_clip_val=1e-4)
    everything = torch.cat([gradient.flatten() for _, gradient in module.kept[1].values()])
    assert first.grad_norm == pytest.approx(float(everything.norm()), rel=1e-5)
    assert first.grad_norm > 1e-3


def test_activations_and_dead_units() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        net[0].bias.copy_(torch.tensor([-100.0, -100.0, -100.0, 100, 100, 100, 100, 100]))
    (first, *_) = read(Small(net))
    assert set(first.activations) == {"net.0", "net.1", "net.2"}
    assert first.dead == {"net.1": pytest.approx(3 / 8)}
    x = next(iter(data()))[0]
    torch.manual_seed(0)
    fresh = Small()
    with torch.no_grad():
        out = fresh.net[0](x)
    (first, *_) = read(fresh)
    assert first.activations["net.0"] == (pytest.approx(float(out.mean())), pytest.approx(float(out.std(correction=0))))
    assert first.activations["net.1"][0] == pytest.approx(float(out.relu().mean()))


def test_a_channel_of_a_convolution_is_one_unit() -> None:
    net = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.copy_(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    (first, *_) = read(Small(net))
    assert first.dead == {"net.2": 0.25}
    assert first.activations["net.2"] == (pytest.approx(0.75), pytest.approx(math.sqrt(3) / 4))


def test_accumulated_gradients_are_looked_at_once_a_step() -> None:
    found = read(Small(), accumulate_grad_batches=3)  # ten batches, the last of which makes a step of its own
    assert [reading.step for reading in found] == [1, 2, 4]


def test_frozen_layers_have_no_gradients() -> None:
    module = Small()
    module.net[0].requires_grad_(False)
    found = read(module)
    assert all(set(reading.grads) == {"net.2"} for reading in found)


class OnEight(Small):
    """For inputs of eight numbers."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 2))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing."""


class TwoOptimizers(Small):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.zero_grad()
            self.manual_backward(self.net(batch[0]).pow(2).mean())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net[0].parameters(), lr=0.1), torch.optim.SGD(self.net[2].parameters(), lr=0.2)]


def test_two_optimizers_are_both_seen() -> None:
    found = read(TwoOptimizers())
    assert {name for reading in found for name in reading.grads} == {"net.0", "net.2"}


class Embedded(Small):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(1, 2)))
        self.table = nn.Embedding(9, 3, sparse=True)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.table(batch[0].abs().long() % 9).pow(2).mean()


def test_sparse_gradients_are_measured() -> None:
    found = read(Embedded())
    assert found
    assert all(reading.grads["table"].norm > 0 for reading in found)


def test_a_step_that_gives_no_loss_is_measured_all_the_same() -> None:
    assert all(math.isnan(reading.loss or 0) for reading in read(TwoOptimizers()))


def test_nothing_stays_behind() -> None:
    module = Small()
    read(module)
    assert not any(part._forward_hooks for part in module.modules())


@pytest.mark.parametrize("key", ["every_n_steps", "sample_every_n_steps"])
def test_a_negative_number_is_refused(key: str, command: Command) -> None:
    done = command("fit", *SMALL, f"--monitor.{key}", "-1")
    assert done.status == 2
    assert f"monitor.{key}: -1 is negative" in done.err


# ---- a run


def test_measuring_changes_nothing(command: Command) -> None:
    for name, every in (("off", "0"), ("on", "1")):
        more = ["--monitor.every_n_steps", every, "--monitor.sample_every_n_steps", "3", "--name", name]
        assert command("fit", *SMALL, *more).status == 0
    found = differences(*(Path("lightning_logs", name, "version_0") for name in ("off", "on")))
    assert [place for place in found if "logged" not in place] == []


def test_what_tensorboard_has(command: Command) -> None:
    assert command("fit", *SMALL).status == 0
    found = EventAccumulator(str(RUN), size_guidance={"tensors": 0}).Reload()
    tags = set(found.Tags()["tensors"]) | set(found.Tags()["scalars"])
    for tag in ("grad_norm/all", "grad_norm/net.head.3", "grad_mean/net.features.0.0", "grad_var/net.head.3"):
        assert tag in tags
    for tag in ("update_ratio/net.head.3", "activation_std/net.features.0.0", "dead_units/net.features.0.2"):
        assert tag in tags
    for tag in ("time/step_ms", "time/waiting_for_data", "memory/process_mb", "recall/lowest", "recall/7"):
        assert tag in tags
    histograms = set(found.Tags()["histograms"])
    assert {"weights/net.head.3.weight", "gradients/net.head.3.weight"} <= histograms
    steps = [step for step, _ in scalars(RUN)["grad_norm/all"]]
    assert steps == [0, 19]
    (layout,) = found.Tensors("custom_scalars__config__")
    text = layout.tensor_proto.string_val[0]
    assert b"^train/loss$" in text
    assert b"^val/acc$" in text
    shares = [value for _, value in scalars(RUN)["recall/lowest"]]
    assert len(shares) == 2
    assert json.loads((RUN / "summary.json").read_text())["val"]["val/acc"] >= shares[-1]


def test_it_can_be_switched_off(command: Command) -> None:
    assert command("fit", *SMALL, "--monitor.every_n_steps", "0").status == 0
    assert not [name for name in scalars(RUN) if name.startswith(("grad", "update", "activation"))]


def test_the_loss_is_logged_of_a_module_that_does_not_do_it(command: Command) -> None:
    own = [
        "--trainer.limit_val_batches",
        "0",
        "--model",
        f"{__name__}.OnEight",
        "--data",
        "tests.noisy.NoisyData",
        "--name",
        "small",
    ]
    done = command("fit", *own, "--trainer.max_epochs", "2", "--monitor.every_n_steps", "3")
    assert done.status == 0, done.err
    found = scalars(Path("lightning_logs/small/version_0"))["train/loss_step"]
    assert [step for step, _ in found] == [0, 2, 5, 8, 11]
    assert command("fit", *SMALL).status == 0
    steps = [step for step, _ in scalars(RUN)["train/loss_step"]]
    assert len(steps) == len(set(steps))
