"""`MultiLabelClassifier`: its loss and metrics by scikit-learn and by hand, and what it predicts."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torch import Tensor, nn
from torch.nn import functional as F

from modules import Classifier, MultiLabelClassifier
from tests.conftest import Loader, quick_trainer

FEATURES, LABELS = 6, 3


def batches(*sizes: int, dtype: torch.dtype = torch.uint8) -> Loader:
    generator = torch.Generator().manual_seed(0)
    chances = torch.tensor([0.5, 0.1, 0.9])
    return Loader(
        [
            (torch.randn(n, FEATURES, generator=generator),
             (torch.rand(n, LABELS, generator=generator) < chances).to(dtype))
            for n in sizes
        ]
    )  # fmt: skip


def module(**options: Any) -> MultiLabelClassifier:
    """One whose weights stay as they are."""
    torch.manual_seed(0)
    made = MultiLabelClassifier(nn.Linear(FEATURES, LABELS), LABELS, **options)
    made.configure_optimizers = lambda: torch.optim.SGD(made.parameters(), 0.0)  # type: ignore[method-assign, assignment, return-value]
    return made


def whole(made: MultiLabelClassifier, loader: Loader) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of all samples at once."""
    x, y = (torch.cat(column) for column in zip(*loader.batches, strict=True))
    logits = (x @ made.net.weight.T + made.net.bias).detach().double().numpy()  # type: ignore[operator]
    return y.numpy().astype(int), 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.bool])
def test_metrics_are_those_of_scikit_learn_over_all_samples_though_batches_are_uneven(dtype: torch.dtype) -> None:
    made, train, val = module(), batches(7, 7, 2, dtype=dtype), batches(16, 16, 3, dtype=dtype)
    trainer = quick_trainer(num_sanity_val_steps=2)  # whose batches must not count
    trainer.fit(made, train, val)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert set(found) == {"train/loss", "train/acc", "val/loss", "val/acc", "val/macro_f1", "val/exact_match"}
    for stage, loader in (("train", train), ("val", val)):
        y, p = whole(made, loader)
        losses = [log_loss(y[:, k], p[:, k], labels=[0, 1]) for k in range(LABELS)]
        assert found[f"{stage}/loss"] == pytest.approx(np.mean(losses), abs=1e-5)
        assert found[f"{stage}/acc"] == pytest.approx(np.mean(y == (p > 0.5)), abs=1e-6)
    assert found["val/macro_f1"] == pytest.approx(f1_score(y, p > 0.5, average="macro"), abs=1e-6)
    assert found["val/exact_match"] == pytest.approx(accuracy_score(y, p > 0.5), abs=1e-6)
    assert 0 < found["val/exact_match"] < found["val/acc"] < 1


def first_loss(made: MultiLabelClassifier, batch: tuple[Tensor, Tensor], data: Any = None) -> float:
    made.trainer = quick_trainer()
    made.trainer.datamodule = data  # type: ignore[attr-defined]
    made.on_fit_start()
    return float(made.training_step(batch, 0).detach())


def by_hand(made: MultiLabelClassifier, loader: Loader, weight: Any = 1.0, gamma: float = 0.0) -> float:
    y, p = whole(made, loader)
    there, absent = -y * (1 - p) ** gamma * np.log(p) * np.asarray(weight), -(1 - y) * p**gamma * np.log(1 - p)
    return float((there + absent).mean())


def test_labels_that_are_there_count_more_by_their_weights_in_training_alone() -> None:
    loader = batches(40)
    made = module(pos_weight=[1.0, 9.0, 0.5])
    assert first_loss(made, loader.batches[0]) == pytest.approx(by_hand(made, loader, [1, 9, 0.5]), rel=1e-5)
    assert first_loss(module(), loader.batches[0]) == pytest.approx(by_hand(made, loader), rel=1e-5)
    with torch.no_grad():
        made.validation_step(loader.batches[0], 0)
    assert float(made.val_metrics["loss"].compute()) == pytest.approx(by_hand(made, loader), rel=1e-5)


def test_balanced_weights_come_from_the_data() -> None:
    class Data(LightningDataModule):
        pos_weight = (2.0, 3.0, 4.0)

    loader = batches(40)
    made = module(pos_weight="balanced")
    assert first_loss(made, loader.batches[0], Data()) == pytest.approx(by_hand(made, loader, [2, 3, 4]), rel=1e-5)
    said = "model.pos_weight: balanced needs pos_weight of the data, and LightningDataModule has none"
    with pytest.raises(ValueError, match=said):
        first_loss(made, loader.batches[0], LightningDataModule())


def test_focal_loss_and_one_of_ones_own() -> None:
    loader = batches(40)
    made = module(loss="focal", focal_gamma=3.0, pos_weight=[1.0, 2.0, 3.0])
    assert first_loss(made, loader.batches[0]) == pytest.approx(by_hand(made, loader, [1, 2, 3], 3), rel=1e-5)
    own = module(loss=nn.MSELoss())
    x, y = loader.batches[0]
    assert first_loss(own, (x, y)) == pytest.approx(float(F.mse_loss(own.net(x), y.float()).detach()), rel=1e-6)


def test_predictions_are_a_probability_of_each_label() -> None:
    made, loader = module(), batches(5)
    _, p = whole(made, loader)
    for batch in (loader.batches[0], loader.batches[0][0]):
        found = made.predict_step(batch, 0)
        assert found.dtype == torch.float32
        assert np.allclose(found.detach().numpy(), p, atol=1e-6)


def test_soft_labels_are_learnt_by_their_shares() -> None:
    made = module()
    x, y = torch.zeros(2, FEATURES), torch.tensor([[0.25, 0.0, 1.0]] * 2)
    made.net.bias.data = torch.tensor([math.log(1 / 3), -30.0, 30.0])  # type: ignore[union-attr]
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert first_loss(made, (x, y)) == pytest.approx(entropy / 3, rel=1e-5)


@torch.no_grad()
def test_a_device_without_a_sample_adds_nothing() -> None:
    made, loader = module(), batches(8)
    made.trainer = quick_trainer()
    x, y = loader.batches[0]
    made.validation_step((x, y), 0)
    before = {name: float(metric.compute()) for name, metric in made.val_metrics.items()}  # type: ignore[operator]
    made.validation_step((x[:0], y[:0]), 1)
    assert {name: float(metric.compute()) for name, metric in made.val_metrics.items()} == before  # type: ignore[operator]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "cross_entropy"}, "model.loss: 'cross_entropy' is unknown; allowed are bce, focal, or a class_path"),
        ({"loss": nn.MSELoss(), "pos_weight": "balanced"}, "model.loss: MSELoss takes no pos_weight"),
        ({"focal_gamma": -1.0}, "model.focal_gamma: -1.0 is below 0"),
        ({"pos_weight": [1.0]}, "model.pos_weight: 1 weights for 3 classes"),
        ({"pos_weight": [1.0, -2.0, 1.0]}, "model.pos_weight: [1.0, -2.0, 1.0] must be 0 or more, and not all 0"),
    ],
)
def test_impossible_values(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        module(**options)


def test_labels_of_another_task_are_told() -> None:
    x, y = batches(4).batches[0]
    made, other = module(), Classifier(nn.Linear(FEATURES, LABELS), LABELS)
    said = r"^data: labels of shape \(4,\), and \(4, 3\) is expected; .* --model modules.Classifier$"
    for step in (made.training_step, made.validation_step):
        with pytest.raises(ValueError, match=said):
            step((x, y[:, 0]), 0)
    with pytest.raises(ValueError, match=r"^data: labels of shape \(4, 2\), and \(4, 3\) is expected$"):
        made.validation_step((x, y[:, :2]), 0)
    with pytest.raises(ValueError, match=r"^model.net: Linear gives \(4, 3\) for 4 inputs of 2 labels$"):
        MultiLabelClassifier(nn.Linear(FEATURES, 3), 2).validation_step((x, y), 0)
    said = r"^data: labels of shape \(4, 3\), and \(4,\) is expected; .* --model modules.MultiLabelClassifier$"
    for step in (other.training_step, other.validation_step):
        with pytest.raises(ValueError, match=said):
            step((x, y), 0)
