"""`callbacks.CheckMonitors`: a metric that nobody logs is found before the first epoch."""

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn

from callbacks import CheckMonitors
from modules import Classifier
from modules.optimizers import configure_optimizers
from tests.conftest import Loader, quick_trainer

BATCHES = Loader([(torch.ones(2, 3), torch.tensor([0, 1]))] * 4)
LOGGED = "val/acc, val/loss, val/macro_f1, val/macro_recall"


def classifier(scheduler: dict[str, Any] | None = None) -> LightningModule:
    module = Classifier(nn.Linear(3, 2), 2)
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    module.configure_optimizers = partial(configure_optimizers, module, sgd, scheduler, "val/loss")  # type: ignore[method-assign]
    return module


def run(*callbacks: Callback, module: LightningModule | None = None, batches: Any = BATCHES, **options: Any) -> Trainer:
    trainer = quick_trainer(callbacks=[CheckMonitors(), *callbacks], enable_checkpointing=True, **options)
    trainer.fit(module or classifier(), batches, batches)
    return trainer


def refusal(*callbacks: Callback, **options: Any) -> tuple[str, int]:
    """The message, and the number of steps taken before it came."""
    module = options.pop("module", None) or classifier()
    trainer = quick_trainer(callbacks=[CheckMonitors(), *callbacks], enable_checkpointing=True, **options)
    with pytest.raises(ValueError, match=": ") as caught:
        trainer.fit(module, BATCHES, BATCHES)
    return str(caught.value), trainer.global_step


@pytest.mark.parametrize("name", ["val/loss", "val/acc", "train/loss", "train/acc"])
def test_metrics_that_are_logged_may_be_monitored(name: str) -> None:
    trainer = run(EarlyStopping(name), ModelCheckpoint(monitor=name), max_epochs=2)
    assert trainer.current_epoch == 2
    assert trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]


def test_a_module_that_logs_nothing_is_trained_without_the_callbacks_that_watch_the_default() -> None:
    batches = Loader([torch.ones(2, 32)] * 2)
    best, every = ModelCheckpoint(monitor="val/loss"), ModelCheckpoint(filename="last")
    trainer = run(EarlyStopping("val/loss"), best, every, module=BoringModel(), batches=batches, max_epochs=3)
    assert trainer.global_step == 6
    assert every.best_model_path
    assert not best.best_model_path
    assert trainer.early_stopping_callbacks == []


@pytest.mark.parametrize(
    ("callback", "key"),
    [(EarlyStopping, "early_stopping"), (lambda name: ModelCheckpoint(monitor=name), "checkpoint")],
)
@pytest.mark.parametrize(("name", "hint"), [("val/los", "; did you mean 'val/loss'?"), ("val_f1_score", "")])
def test_an_unknown_validation_metric_is_refused_before_the_first_step(
    callback: Any, key: str, name: str, hint: str
) -> None:
    text, steps = refusal(callback(name))
    assert text == f"{key}.monitor: nobody logs '{name}'; logged are {LOGGED}{hint}"
    assert steps == 0


def test_the_monitor_of_the_schedule_is_checked_too() -> None:
    init = {"class_path": "lightning.pytorch.cli.ReduceLROnPlateau", "init_args": {"monitor": "val/error"}}
    text, steps = refusal(module=classifier(init))
    assert text.startswith(f"lr_scheduler.monitor: nobody logs 'val/error'; logged are {LOGGED}")
    assert steps == 0


def test_a_schedule_that_watches_the_default_of_a_silent_module_is_a_mistake() -> None:
    module, batches = BoringModel(), Loader([torch.ones(2, 32)])
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    plateau = {"class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau"}
    module.configure_optimizers = partial(configure_optimizers, module, sgd, plateau, "val/loss")  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"^lr_scheduler\.monitor: nobody logs 'val/loss'; logged are no metrics$"):
        run(module=module, batches=batches)


@pytest.mark.parametrize("name", ["train/los", "train_loss", "train/accuracy"])
def test_a_training_metric_with_a_slip_of_the_pen_is_refused_after_one_step(name: str) -> None:
    text, steps = refusal(EarlyStopping(name, check_on_train_epoch_end=True))
    assert text.startswith(f"early_stopping.monitor: nobody logs '{name}'; logged are train/acc, train/loss, val/acc")
    assert "did you mean 'train/" in text
    assert steps == 1


def test_a_metric_of_the_test_is_refused_after_one_step() -> None:
    text, steps = refusal(ModelCheckpoint(monitor="test/loss"))
    assert text.startswith("checkpoint.monitor: nobody logs 'test/loss'")
    assert steps == 1


def test_without_validation_its_metrics_are_refused_after_one_step() -> None:
    trainer = quick_trainer(callbacks=[CheckMonitors(), EarlyStopping("val/acc")], limit_val_batches=0)
    with pytest.raises(
        ValueError, match=r"^early_stopping\.monitor: nobody logs 'val/acc'; logged are train/acc, train"
    ):
        trainer.fit(classifier(), BATCHES, BATCHES)
    assert trainer.global_step == 1


class Late(BoringModel):
    """Logs a metric at the end of the training epoch, and others that resemble it with each step."""

    def __init__(self, late: str, early: str) -> None:
        super().__init__()
        self.late, self.early = late, early

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log(self.early, 1.0)
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        self.log(self.late, 1.0)


@pytest.mark.parametrize(
    ("late", "early"),
    [
        ("train/f1", "train/loss"),
        pytest.param(
            "train/f1_macro",
            "train/f1_micro",
        ),
    ],
)
def test_a_training_metric_that_comes_at_the_end_of_the_epoch_may_be_monitored(late: str, early: str) -> None:
    best = ModelCheckpoint(monitor=late, save_on_train_epoch_end=True)
    run(best, module=Late(late, early), batches=Loader([torch.ones(2, 32)] * 2))
    assert best.best_model_path
