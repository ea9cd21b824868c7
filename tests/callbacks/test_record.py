"""`callbacks.Record` and `why_stopped`: what a run did, and why it ended."""

from datetime import timedelta
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn

from callbacks import Record
from callbacks.record import as_floats, why_stopped
from tests.conftest import Loader, quick_trainer

BATCHES = Loader([torch.ones(4, 1), torch.ones(4, 1), torch.ones(3, 1)])


class Model(LightningModule):
    """Gives one value of `val/score` after another, the last again and again."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.weight, self.values = nn.Parameter(torch.zeros(1)), list(values)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight.sum()

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking and self.values:
            self.log("val/score", self.values.pop(0) if len(self.values) > 1 else self.values[0])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(model: Model, *callbacks: Callback, batches: Any = BATCHES, **options: Any) -> Trainer:
    trainer = quick_trainer(callbacks=list(callbacks), **{"max_epochs": 10, **options})
    trainer.fit(model, batches, Loader([torch.ones(2, 1)]))
    return trainer


def test_each_validation_is_kept_with_its_epoch_step_and_metrics() -> None:
    record = Record()
    run(Model(0.5, 0.25, 0.125), record, max_epochs=3)  # the sanity check is none of them
    assert [(e.epoch, e.step, e.metrics) for e in record.evaluations] == [
        (0, 3, {"val/score": 0.5}),
        (1, 6, {"val/score": 0.25}),
        (2, 9, {"val/score": 0.125}),
    ]


def test_validations_within_an_epoch_are_kept_too() -> None:
    record = Record()
    run(Model(1.0, 2.0, 3.0), record, max_epochs=1, val_check_interval=1)
    assert [(e.epoch, e.step, e.metrics["val/score"]) for e in record.evaluations] == [(0, 1, 1), (0, 2, 2), (0, 3, 3)]


def test_validating_after_the_fit_adds_nothing() -> None:
    record, model = Record(), Model(1.0)
    trainer = run(model, record, max_epochs=1)
    trainer.validate(model, Loader([torch.ones(2, 1)]), verbose=False)
    assert len(record.evaluations) == 1


@pytest.mark.parametrize(
    "batches",
    [
        BATCHES,
        Loader([(x, x) for x in BATCHES.batches]),
        Loader([{"x": x} for x in BATCHES.batches]),
    ],
)
def test_samples_are_counted_one_by_one_in_any_form_of_batch(batches: Loader) -> None:
    record = Record()
    run(Model(), record, batches=batches, max_epochs=2)
    assert record.samples == 2 * (4 + 4 + 3)
    assert record.samples_per_second is not None
    assert record.samples_per_second > 0


def test_batches_that_can_not_be_counted_give_no_speed() -> None:
    record = Record()
    run(Model(), record, batches=Loader(["a text", "another"]), max_epochs=1)
    assert record.samples == 0
    assert record.samples_per_second is None


def test_there_is_no_speed_before_the_first_step() -> None:
    assert Record().samples_per_second is None


def test_only_single_numbers_become_floats() -> None:
    metrics = {"a": torch.tensor(0.5), "b": 2, "c": torch.ones(3), "d": torch.tensor([4.0])}
    assert as_floats(metrics) == {"a": 0.5, "b": 2.0, "d": 4.0}


# ---- why a run ended


@pytest.mark.parametrize(("mode", "values", "word"), [("min", (1, 1), "fallen"), ("max", (1, 1), "risen")])
def test_a_metric_that_gets_no_better_is_the_reason(mode: str, values: tuple[float, ...], word: str) -> None:
    stopping = EarlyStopping("val/score", patience=3, mode=mode)
    assert why_stopped(run(Model(*values), stopping)) == f"val/score has not {word} for 3 evaluations"


@pytest.mark.parametrize("values", [(3.0, 2.0, 0.1), (0.1,)], ids=["later", "in epoch 0"])
def test_a_threshold_that_is_reached_is_the_reason(values: tuple[float, ...]) -> None:
    reason = why_stopped(run(Model(*values), EarlyStopping("val/score", patience=3, stopping_threshold=0.5)))
    assert "threshold" in reason.lower()
    assert "0.1" in reason


@pytest.mark.parametrize("values", [(1.0, float("nan")), (float("nan"),)], ids=["later", "in epoch 0"])
def test_a_metric_that_is_not_a_number_is_the_reason(values: tuple[float, ...]) -> None:
    reason = why_stopped(run(Model(*values), EarlyStopping("val/score", patience=3)))
    assert "nan" in reason


def test_running_out_of_patience_within_epoch_0_is_the_reason() -> None:
    trainer = run(Model(1.0), EarlyStopping("val/score", patience=2), val_check_interval=1 / 3)
    assert why_stopped(trainer) == "val/score has not fallen for 2 evaluations"


def test_the_last_epoch_is_the_reason_with_early_stopping_at_hand() -> None:
    assert why_stopped(run(Model(3, 2), EarlyStopping("val/score"), max_epochs=2)) == "trainer.max_epochs 2 reached"


def test_the_last_step_is_the_reason() -> None:
    assert why_stopped(run(Model(), max_epochs=-1, max_steps=5)) == "trainer.max_steps 5 reached"
    assert why_stopped(run(Model(), max_epochs=10, max_steps=5)) == "trainer.max_steps 5 reached"


def test_the_time_is_the_reason() -> None:
    assert why_stopped(run(Model(), max_time=timedelta(0))) == "trainer.max_time reached"


def test_a_stop_by_another_callback_is_not_blamed_on_the_time() -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            trainer.should_stop = True

    assert "max_time" not in why_stopped(run(Model(), Stop()))
