"""`Regressor`: losses in scaled units, metrics and predictions in those of the targets."""

from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from modules import Regressor


def data(targets: int = 2, rows: int = 50) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 3, generator=generator)
    y = x @ torch.randn(3, targets, generator=generator) * 20 + 100 + torch.randn(rows, targets, generator=generator)
    return x, y


def regressor(targets: int = 2, loss: Any = "mse", outputs: int | None = None, **more: Any) -> Regressor:
    torch.manual_seed(0)
    net = nn.Linear(3, outputs or targets)
    return Regressor(net, targets, loss, target_mean=[100.0] * targets, target_std=[20.0] * targets, **more)


def trainer(**more: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return Trainer(**{**quiet, "enable_model_summary": False, "log_every_n_steps": 1000, **more})


def loader(targets: int = 2, batch_size: int = 7) -> DataLoader:
    return DataLoader(TensorDataset(*data(targets)), batch_size)


@pytest.mark.parametrize("targets", [1, 2])
def test_metrics_are_those_of_scikit_learn_in_the_targets_units(targets: int) -> None:
    module = regressor(targets)
    (found,) = trainer().validate(module, loader(targets), verbose=False)
    x, y = data(targets)
    predicted = (module.net(x) * 20 + 100).detach().numpy()
    expected = {
        "val/rmse": root_mean_squared_error(y, predicted),
        "val/mae": mean_absolute_error(y, predicted),
        "val/r2": r2_score(y, predicted),
        "val/loss": float(F.mse_loss(module.net(x).detach(), (y - 100) / 20)),
    }
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "function"),
    [
        ("mse", F.mse_loss),
        ("mae", F.l1_loss),
        ("huber", lambda a, b: F.huber_loss(a, b, delta=0.5)),
        (nn.SmoothL1Loss(), F.smooth_l1_loss),
    ],
)
def test_losses_are_of_scaled_targets(loss: Any, function: Any) -> None:
    module = regressor(loss=loss, huber_delta=0.5)
    module.trainer = trainer()
    x, y = data()
    expected = function(module.net(x), (y - 100) / 20)
    assert torch.allclose(module.training_step((x, y), 0), expected)


def test_gaussian_nll_learns_how_sure_it_is() -> None:
    module = regressor(1, "gaussian_nll", outputs=2)
    module.trainer = trainer()
    x, y = data(1)
    mean, log_variance = module.net(x).chunk(2, 1)
    expected = -torch.distributions.Normal(mean, (0.5 * log_variance).exp()).log_prob((y - 100) / 20).mean()
    assert torch.allclose(module.training_step((x, y), 0), expected, atol=1e-5)
    predicted = module.predict_step(x, 0)
    assert torch.allclose(predicted, torch.cat((mean * 20 + 100, (0.5 * log_variance).exp() * 20), 1))
    assert module.prediction_names(["y"]) == ["y", "y_std"]
    assert regressor(1).prediction_names(["y"]) == ["y"]


def test_it_learns_and_the_scale_is_in_the_checkpoint() -> None:
    module = regressor()
    module.configure_optimizers = lambda: torch.optim.Adam(module.parameters(), 0.1)  # type: ignore[method-assign, assignment, return-value]
    fitted = trainer(max_epochs=20)
    fitted.fit(module, loader(batch_size=10), loader())
    assert float(fitted.callback_metrics["val/r2"]) > 0.99
    assert {"train/loss", "train/rmse", "train/mae", "train/r2"} <= set(fitted.callback_metrics)
    assert module.state_dict()["target_std"].tolist() == [20, 20]
    predictions = torch.cat(trainer().predict(module, loader()))  # type: ignore[arg-type]
    assert np.corrcoef(predictions[:, 0], data()[1][:, 0])[0, 1] > 0.99


def test_a_device_without_a_row_adds_nothing() -> None:
    module = regressor()
    module.trainer = trainer()
    x, y = data()
    module.validation_step((x, y), 0)
    before = float(module.val_metrics["rmse"].compute())
    module.validation_step((x[:0], y[:0]), 1)
    assert float(module.val_metrics["rmse"].compute()) == before
    assert np.isfinite(float(module.val_metrics["loss"].compute()))


def test_one_target_may_be_a_vector() -> None:
    module = regressor(1)
    module.trainer = trainer()
    x, y = data(1)
    assert torch.equal(module.training_step((x, y[:, 0]), 0), module.training_step((x, y), 0))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"loss": "mea"}, "model.loss: 'mea' is unknown; allowed are mse, mae, huber, gaussian_nll, or a class_path"),
        ({"huber_delta": 0.0}, "model.huber_delta: 0.0 is not a positive number"),
        ({"targets": 0, "outputs": 1}, "model.num_targets: 0 is not a positive number"),
    ],
)
def test_impossible_values(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        regressor(**keys)


def test_shapes_that_do_not_fit_are_told() -> None:
    x, y = data()
    with pytest.raises(ValueError, match=r"model.net: Linear gives \(50, 3\) for 50 inputs of 2 targets"):
        regressor(outputs=3).validation_step((x, y), 0)
    with pytest.raises(ValueError, match="a mean and a variance for each of them"):
        regressor(loss="gaussian_nll").validation_step((x, y), 0)
    with pytest.raises(ValueError, match=r"targets of shape \(50, 1\), and model.num_targets is 2"):
        regressor().validation_step((x, y[:, :1]), 0)
    with pytest.raises(ValueError, match=r"model\.target_std: 1 numbers for 2 targets"):
        Regressor(nn.Linear(3, 2), 2, target_std=[1.0])
    with pytest.raises(ValueError, match="has to be above 0"):
        Regressor(nn.Linear(3, 1), 1, target_std=[0.0])
