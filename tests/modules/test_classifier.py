"""`modules.Classifier`: what it logs, to the last digit, and what it predicts."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score
from torch import Tensor, nn

from modules import Classifier
from modules.nets import CNN
from modules.optimizers import configure_optimizers
from tests.conftest import Loader, quick_trainer

FEATURES, CLASSES = 6, 3
Batch = tuple[Tensor, Tensor]


def batches(*sizes: int, seed: int = 0) -> Loader:
    generator = torch.Generator().manual_seed(seed)
    return Loader(
        [
            (torch.randn(n, FEATURES, generator=generator), torch.randint(0, CLASSES, (n,), generator=generator))
            for n in sizes
        ]
    )


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(FEATURES, CLASSES)


def still(net: nn.Module, **options: Any) -> Classifier:
    """A classifier whose weights stay as they are: the learning rate is 0."""
    module = Classifier(net, CLASSES, **options)
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}}
    module.configure_optimizers = partial(configure_optimizers, module, sgd, None, "val/loss")  # type: ignore[method-assign]
    return module


def probabilities(net: nn.Module, loader: Loader) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of all samples at once, by numpy."""
    x, y = (torch.cat(column).numpy() for column in zip(*loader.batches, strict=True))
    logits = x.astype(np.float64) @ net.weight.detach().numpy().T + net.bias.detach().numpy()  # type: ignore[operator, union-attr]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return y, shares / shares.sum(1, keepdims=True)


def exact(metric: str, net: nn.Module, loader: Loader) -> Any:
    """The loss or the accuracy over all samples, by scikit-learn."""
    y, p = probabilities(net, loader)
    value = log_loss(y, p, labels=range(CLASSES)) if metric == "loss" else accuracy_score(y, p.argmax(1))
    return pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("metric", ["loss", "acc"])
def test_epoch_metrics_are_means_over_the_samples_though_batches_are_uneven(metric: str) -> None:
    net, train, val = linear(), batches(7, 7, 2, seed=1), batches(5, 5, 1, seed=2)
    trainer = quick_trainer(num_sanity_val_steps=2)  # whose batches must not count
    trainer.fit(still(net), train, val)
    assert trainer.callback_metrics[f"train/{metric}"].item() == exact(metric, net, train)
    assert trainer.callback_metrics[f"val/{metric}"].item() == exact(metric, net, val)


@pytest.mark.parametrize("metric", ["loss", "acc"])
def test_test_metrics_are_means_over_the_samples_too(metric: str) -> None:
    net, loader = linear(), batches(4, 4, 3)
    trainer = quick_trainer()
    trainer.test(still(net), loader, verbose=False)
    assert trainer.callback_metrics[f"test/{metric}"].item() == exact(metric, net, loader)


def test_each_epoch_starts_its_metrics_anew() -> None:
    class Changing(Loader):
        """Another part of the data in each epoch."""

        def __iter__(self) -> Iterator[Batch]:
            yield self.batches.pop(0)  # type: ignore[attr-defined]

        def __len__(self) -> int:
            return 1

    class Keep(Callback):
        def __init__(self) -> None:
            self.kept: list[tuple[float, float]] = []

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch:
                self._keep(trainer)

        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self._keep(trainer)

        def _keep(self, trainer: Trainer) -> None:
            self.kept.append(tuple(trainer.callback_metrics[name].item() for name in ("train/loss", "val/loss")))  # type: ignore[arg-type]

    def losses(loader: Loader) -> list[float]:
        return [log_loss(*probabilities(net, Loader([part])), labels=range(CLASSES)) for part in loader.batches]

    net, train, val, keep = linear(), batches(4, 3, 5, seed=1), batches(2, 6, 3, seed=2), Keep()
    expected = list(zip(losses(train), losses(val), strict=True))
    trainer = quick_trainer(max_epochs=3, num_sanity_val_steps=0, callbacks=[keep])
    trainer.fit(still(net), Changing(list(train.batches)), Changing(list(val.batches)))
    assert keep.kept == [pytest.approx(pair, abs=1e-6) for pair in expected]


def test_these_metrics_are_logged_and_no_others() -> None:
    fitting, testing = quick_trainer(log_every_n_steps=2), quick_trainer()
    fitting.fit(still(linear()), batches(4, 4), batches(4))
    testing.test(still(linear()), batches(4), verbose=False)
    tested = {"loss", "acc", "macro_recall", "macro_f1"}
    assert set(fitting.callback_metrics) == {
        "train/loss",
        "train/acc",
        "train/loss_step",
        *(f"val/{m}" for m in tested),
    }
    assert set(testing.callback_metrics) == {f"test/{metric}" for metric in tested}


def test_label_smoothing_changes_the_training_loss_and_no_other() -> None:
    net, loader, smoothing = linear(), batches(5, 5), 0.3
    trainer = quick_trainer()
    trainer.fit(still(net, label_smoothing=smoothing), loader, loader)
    y, p = probabilities(net, loader)
    target = np.full_like(p, smoothing / CLASSES)
    target[np.arange(len(y)), y] += 1 - smoothing
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(-(target * np.log(p)).sum(1).mean(), abs=1e-6)
    assert trainer.callback_metrics["val/loss"].item() == exact("loss", net, loader)


def test_training_follows_the_gradient_of_the_mean_cross_entropy() -> None:
    net, loader = linear(), batches(8)
    (x, y), w = loader.batches[0], net.weight.detach().clone()  # type: ignore[operator, union-attr]
    _, p = probabilities(net, loader)
    gradient = (p - np.eye(CLASSES)[y.numpy()]).T @ x.numpy() / len(y)
    module = Classifier(net, CLASSES)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.5)  # type: ignore[assignment, method-assign]
    quick_trainer().fit(module, loader, loader)
    np.testing.assert_allclose(net.weight.detach().numpy(), w.numpy() - 0.5 * gradient, atol=1e-6)  # type: ignore[operator, union-attr]


class Seen(nn.Module):
    """Notes whether its inputs come with the channel as the fastest axis."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.fast = net, []  # type: ignore[var-annotated]

    def forward(self, x: Tensor) -> Tensor:
        self.fast.append(x.is_contiguous(memory_format=torch.channels_last))
        return self.net(x)


@pytest.mark.parametrize("channels_last", [True, False])
def test_channels_last_lays_out_images_and_weights_and_changes_no_logit(channels_last: bool) -> None:
    net = Seen(CNN(3, (12, 12), CLASSES, width=8, norm="none"))
    x = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    expected = net.net(x)
    logits = Classifier(net, CLASSES, channels_last=channels_last)(x)
    weight = next(m.weight for m in net.modules() if isinstance(m, nn.Conv2d))
    assert net.fast == [channels_last]
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert torch.allclose(logits, expected, atol=1e-5)


def test_channels_last_leaves_inputs_alone_that_are_no_images() -> None:
    x = torch.randn(4, FEATURES, generator=torch.Generator().manual_seed(0))
    net = linear()
    assert torch.equal(Classifier(net, CLASSES, channels_last=True)(x), net(x))


@pytest.mark.parametrize("form", [lambda x, y: (x, y), lambda x, y: [x, y], lambda x, y: x])
def test_predictions_are_the_probabilities_of_inputs_with_and_without_labels(form: Any) -> None:
    net, loader = linear(), batches(6)
    _, expected = probabilities(net, loader)
    predicted = Classifier(net, CLASSES).predict_step(form(*loader.batches[0]), 0).detach()
    assert torch.allclose(predicted.sum(1), torch.ones(6))
    np.testing.assert_allclose(predicted.numpy(), expected, atol=1e-6)


def test_predictions_of_a_half_precision_network_are_float32_and_sum_to_1() -> None:
    predicted = Classifier(linear().bfloat16(), CLASSES).predict_step(torch.ones(2, FEATURES, dtype=torch.bfloat16), 0)
    assert predicted.dtype == torch.float32
    assert torch.allclose(predicted.sum(1), torch.ones(2), atol=1e-6)


@pytest.mark.parametrize("value", [-0.1, 1.0, 2.0])
def test_label_smoothing_outside_its_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=rf"^model\.label_smoothing: {value} is outside \[0, 1\)$"):
        Classifier(linear(), CLASSES, label_smoothing=value)


@pytest.mark.parametrize(("outputs", "said"), [(2, "(4, 2)"), (5, "(4, 5)")])
def test_a_network_with_another_number_of_outputs_than_classes_is_named(outputs: int, said: str) -> None:
    message = f"model.net: Linear gives {said} for 4 inputs of 3 classes"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        quick_trainer().validate(Classifier(nn.Linear(FEATURES, outputs), CLASSES), batches(4), verbose=False)


class Words(nn.Module):
    """Token ids `(N, T)` to logits, with a recurrent network."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(20, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(x))[0][:, -1])


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (Words(), (8, 5)),
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.Flatten(), nn.Linear(32, CLASSES)), (8, 2, 10)),
        (nn.Sequential(nn.Conv3d(1, 2, 2), nn.Flatten(), nn.Linear(16, CLASSES)), (8, 1, 3, 3, 3)),
    ],
)
def test_any_network_that_gives_logits_learns(net: nn.Module, shape: Sequence[int]) -> None:
    torch.manual_seed(0)
    y = torch.randint(0, CLASSES, shape[:1])
    x = torch.randint(0, 20, shape) if isinstance(net, Words) else torch.randn(shape)
    module = Classifier(net, CLASSES)
    module.configure_optimizers = lambda: torch.optim.Adam(module.parameters(), lr=0.05)  # type: ignore[assignment, method-assign]
    trainer, loader = quick_trainer(max_epochs=30), Loader([(x, y)])
    trainer.fit(module, loader, loader)
    assert trainer.callback_metrics["val/acc"] == 1


def test_an_empty_batch_changes_no_metric() -> None:
    # so comes the last batch of an evaluation to a rank, where it has fewer samples than there are ranks
    net, loader = linear(), batches(4)
    nothing = (torch.zeros(0, FEATURES), torch.zeros(0, dtype=torch.int64))
    trainer = quick_trainer()
    trainer.validate(still(net), Loader([*loader.batches, nothing]), verbose=False)
    assert trainer.callback_metrics["val/loss"].item() == exact("loss", net, loader)
    assert trainer.callback_metrics["val/acc"].item() == exact("acc", net, loader)


class Counted(LightningDataModule):
    """Says how often each class is there."""

    class_counts: ClassVar = [6, 3, 1]

    def train_dataloader(self) -> Loader:
        return batches(5, 4)

    val_dataloader = train_dataloader


def test_rare_classes_count_as_much_as_frequent_ones() -> None:
    module = still(linear(), class_weights="balanced")
    losses: list[float] = []

    class Losses(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
            losses.append(float(outputs["loss"]))

    quick_trainer(callbacks=[Losses()]).fit(module, datamodule=Counted())
    weights = np.array([10 / 18, 10 / 9, 10 / 3])  # N / (K n)
    for loss, batch in zip(losses, batches(5, 4).batches, strict=True):
        y, p = probabilities(module.net, Loader([batch]))
        each = -np.log(p[np.arange(len(y)), y])
        assert loss == pytest.approx((weights[y] * each).sum() / weights[y].sum(), rel=1e-5)


def test_class_weights_need_counts() -> None:
    with pytest.raises(ValueError, match=r"^model\.class_weights: balanced needs class_counts"):
        quick_trainer().fit(still(linear(), class_weights="balanced"), batches(5), batches(5))


def test_class_weights_of_one_s_own_weigh_the_training_loss_and_no_other() -> None:
    net, loader, chosen = linear(), batches(6), [1.0, 2.0, 0.5]
    trainer = quick_trainer()
    trainer.fit(still(net, class_weights=chosen), loader, loader)
    y, p = probabilities(net, loader)
    each, weights = -np.log(p[np.arange(len(y)), y]), np.array(chosen)[y]
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(
        (weights * each).sum() / weights.sum(), rel=1e-5
    )
    assert trainer.callback_metrics["val/loss"].item() == exact("loss", net, loader)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, "model.class_weights: 2 weights for 3 classes"),
        ({"class_weights": [1.0, -2.0, 0.0]}, "model.class_weights: [1.0, -2.0, 0.0] must be 0 or more, and not all 0"),
        ({"focal_gamma": -1.0}, "model.focal_gamma: -1.0 is below 0"),
        ({"loss": "ce"}, "model.loss: 'ce' is unknown; allowed are cross_entropy, focal, or a class_path"),
        (
            {"loss": nn.MultiMarginLoss(), "label_smoothing": 0.1},
            "model.loss: MultiMarginLoss takes no label_smoothing and no class_weights",
        ),
    ],
)
def test_what_a_loss_can_not_have_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        still(linear(), **options)


def test_a_loss_of_one_s_own_is_that_of_training_and_validation() -> None:
    net, loader, trainer = linear(), batches(6, 3), quick_trainer()
    trainer.fit(still(net, loss=nn.MultiMarginLoss()), loader, loader)
    x, y = (torch.cat(column) for column in zip(*loader.batches, strict=True))
    expected = float(nn.MultiMarginLoss()(net(x), y).detach())
    for stage in ("train", "val"):
        assert float(trainer.callback_metrics[f"{stage}/loss"]) == pytest.approx(expected, rel=1e-5)


def test_recall_and_f1_are_those_of_scikit_learn_over_all_samples() -> None:
    net, loader, trainer = linear(), batches(40, 7), quick_trainer()
    trainer.test(still(net), loader, verbose=False)
    y, p = probabilities(net, loader)
    for name, expected in (("recall", recall_score), ("f1", f1_score)):
        found = float(trainer.callback_metrics[f"test/macro_{name}"])
        assert found == pytest.approx(expected(y, p.argmax(1), average="macro"), abs=1e-6)


def test_a_class_that_is_not_there_does_not_count() -> None:
    loader = Loader([(torch.randn(9, FEATURES), torch.tensor([0, 1] * 4 + [0]))])
    net, trainer = linear(), quick_trainer()
    with torch.no_grad():
        net.bias[2] = -100.0  # type: ignore[index, operator, union-attr]
    trainer.test(still(net), loader, verbose=False)
    y, p = probabilities(net, loader)
    assert set(p.argmax(1)) <= {0, 1}
    found = float(trainer.callback_metrics["test/macro_f1"])
    assert found == pytest.approx(f1_score(y, p.argmax(1), average="macro"), abs=1e-6)


def test_mixed_labels_are_learnt_by_their_shares() -> None:
    x, y = batches(8).batches[0]
    shares = torch.nn.functional.one_hot(y, CLASSES) * 0.7 + torch.nn.functional.one_hot(y.roll(1), CLASSES) * 0.3
    net, trainer = linear(), quick_trainer()
    trainer.fit(still(net), Loader([(x, shares)]), batches(3))
    _, p = probabilities(net, Loader([(x, y)]))
    expected = -(shares.numpy() * np.log(p)).sum(1).mean()
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(expected, rel=1e-5)
    right = (p.argmax(1) == shares.argmax(1).numpy()).mean()
    assert float(trainer.callback_metrics["train/acc"]) == pytest.approx(right)
