"""The predictions of the best epoch, as numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from callbacks import Residuals, TensorBoardViews
from callbacks.predictions import describe
from runs import Run
from runs.report import write_report
from tests.conftest import Loader, quick_trainer

FOLDER = Path("logs/run/version_0")


class Wrong(LightningModule):
    """Predicts as many classes as said; by epoch, the losses and the errors of its validation are given."""

    def __init__(self, losses: list[float], outputs: int | None = None, classes: int = 0) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.losses, self.outputs, self.classes = losses, outputs, classes

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.layer(batch[0]).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        self.log("val/loss", self.losses[self.current_epoch])
        if self.classes:
            return {"logits": nn.functional.one_hot((y + self.current_epoch) % self.classes, self.classes).float()}
        targets = x[:, 0] if self.outputs is None else x.expand(-1, self.outputs)
        return {"predictions": targets + self.current_epoch + 1, "targets": targets}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.0)


def fit(model: LightningModule, callback: Any, **options: Any) -> None:
    batches = [(torch.arange(4.0).view(4, 1) + 4 * i, torch.tensor([0, 0, 1, 2])) for i in range(3)]
    monitor = ModelCheckpoint(monitor="val/loss", dirpath="checkpoints")
    logger = TensorBoardLogger("logs", "run", version=0)
    options = {"max_epochs": 3, "num_sanity_val_steps": 1, "enable_checkpointing": True, **options}
    trainer = quick_trainer(logger=logger, callbacks=[callback, monitor], log_every_n_steps=1, **options)
    trainer.fit(model, Loader(batches), Loader(batches))


@pytest.mark.parametrize("outputs", [None, 1, 3])
def test_residuals_are_those_of_the_best_epoch(outputs: int | None) -> None:
    fit(Wrong([3.0, 1.0, 2.0], outputs), Residuals())
    found = json.loads((FOLDER / "residuals.json").read_text())
    assert (found["epoch"], found["step"]) == (1, 6)
    assert len(found["outputs"]) == (outputs or 1)
    for output in found["outputs"]:
        # in epoch 1 each of the targets 0, 1, …, 11 is predicted 2 too high
        assert output["samples"] == 12
        assert output["mean"] == output["mae"] == output["rmse"] == 2
        assert output["r2"] == pytest.approx(1 - 12 * 4 / 143)
        assert sum(output["histogram"]) == 12
        assert sorted(output["targets"]) == list(range(12))


def test_the_report_shows_residuals() -> None:
    fit(Wrong([3.0, 1.0, 2.0], 2), Residuals())
    (FOLDER / "config.yaml").write_text("seed_everything: 1\n")
    page = write_report(Run(FOLDER)).read_text()
    assert "12 samples" in page
    assert page.count('class="dots"') == 2
    assert page.count('class="bar"') == 2 * 1, "all residuals are the same: one bar of each output"
    assert "0.6643" in page, "R²"


def test_a_nan_is_never_the_best_epoch() -> None:
    fit(Wrong([float("nan"), 5.0, 6.0]), Residuals())
    assert json.loads((FOLDER / "residuals.json").read_text())["epoch"] == 1


def test_the_best_epoch_of_a_run_that_goes_on_may_be_one_before() -> None:
    before, after = Residuals(), Residuals()
    fit(Wrong([1.0, 2.0]), before, max_epochs=2)
    (FOLDER / "residuals.json").unlink()
    after.load_state_dict(before.state_dict())
    trainer = quick_trainer(logger=TensorBoardLogger("logs", "run", version=0))
    after.on_train_end(trainer, Wrong([]))
    assert json.loads((FOLDER / "residuals.json").read_text())["epoch"] == 0


@pytest.mark.parametrize("model", [Wrong([1.0] * 3, classes=3)])
def test_other_outputs_leave_no_residuals(model: LightningModule) -> None:
    fit(model, Residuals())
    assert not (FOLDER / "residuals.json").exists()


def test_pairs_that_are_not_finite_are_counted_and_left_out() -> None:
    found = describe(torch.tensor([1.0, torch.nan, 3.0]), torch.tensor([0.0, 1.0, torch.inf]))
    assert (found["samples"], found["not_finite"], found["mean"], found["r2"]) == (3, 2, 1.0, None)
    none = describe(torch.tensor([torch.nan]), torch.tensor([1.0]))
    assert none == {"samples": 1, "not_finite": 1}


def test_of_many_samples_some_are_kept_and_all_are_counted() -> None:
    targets = torch.linspace(-1, 1, 100_000)
    found = describe(targets + 0.5, targets)
    assert len(found["predictions"]) == 1000
    assert (found["targets"][0], found["targets"][-1]) == (-1, 1)
    assert found["mae"] == pytest.approx(0.5, rel=1e-4)
    assert sum(found["histogram"]) == 100_000


def test_the_confusion_matrix_is_that_of_the_best_epoch() -> None:
    # in epoch 1 each class is taken for the next one
    fit(Wrong([3.0, 1.0, 2.0], classes=3), TensorBoardViews())
    found = json.loads((FOLDER / "confusion_matrix.json").read_text())
    assert (found["epoch"], found["part"], found["classes"]) == (1, "validation", ["0", "1", "2"])
    assert found["counts"] == [[0, 1, 6], [1, 2, 3], [2, 0, 3]]
