"""`callbacks.TensorBoardViews`: what can be seen in TensorBoard, read back from the event files."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import TensorBoardViews
from callbacks.tensorboard import draw_confusion, draw_mistakes, log_best, log_hparams, tile
from datamodules import Augment, ImageArrays
from modules import Classifier
from tests.conftest import Loader, quick_trainer

pytestmark = pytest.mark.pictures
VIEWS = ["confusion_matrix", "inputs/augmented", "inputs/stored", "mistakes"]


def read(folder: str | Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    return events.Reload()


def picture(events: EventAccumulator, tag: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(events.Images(tag)[-1].encoded_image_string)).convert("L"))


def fit(
    module: LightningModule,
    data: Any,
    views: TensorBoardViews | None = TensorBoardViews(),  # noqa: B008 (set up anew by each fit)
    monitor: str | None = "val/loss",
    **options: Any,
) -> EventAccumulator:
    """What a run wrote; `data` is a datamodule or a loader for training and validation."""
    logger = TensorBoardLogger(".", name="", version="run")
    callbacks = [*filter(None, [views]), *([ModelCheckpoint(monitor=monitor)] if monitor else [])]
    options = {"logger": logger, "log_every_n_steps": 1, "enable_checkpointing": bool(monitor), **options}
    trainer = quick_trainer(callbacks=callbacks, **options)
    if isinstance(data, ImageArrays):
        trainer.fit(module, datamodule=data)
    else:
        trainer.fit(module, data, data)
    logger.experiment.close()
    return read("run")


class Squares(ImageArrays):
    """Two classes: bright on the left, bright on the right."""

    def __init__(self, channels: int = 1, **options: Any) -> None:
        super().__init__(**{"batch_size": 8, "val_fraction": 0.25, **options})
        self.channels = channels

    def load_train(self) -> tuple[Tensor, Tensor, list[str]]:
        labels = torch.arange(64) % 2
        images = torch.zeros(64, self.channels, 6, 6, dtype=torch.uint8)
        images[labels == 0, :, :, :2] = 200
        images[labels == 1, :, :, 4:] = 200
        return images, labels, ["left", "right"]


def classifier(channels: int = 1, lr: float = 0.01) -> Classifier:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36 * channels, 2))
    module = Classifier(net, 2)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=lr)  # type: ignore[assignment, method-assign]
    return module


class Scripted(LightningModule):
    """Predicts in each epoch what it is told to, with the loss that it is told to."""

    def __init__(self, predictions: list[list[int]], losses: list[float], confidence: float = 3.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.predictions, self.losses, self.confidence = predictions, losses, confidence

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        self.log("val/loss", self.losses[self.current_epoch])
        predicted = torch.tensor(self.predictions[self.current_epoch])
        return {"logits": self.confidence * F.one_hot(predicted, 3).float()}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


LABELS = [0, 1, 2, 0]
RIGHT, WRONG = LABELS, [0, 2, 2, 1]
LABELLED = Loader([(torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.tensor(LABELS))])


# ---- what is there


@pytest.mark.parametrize("channels", [1, 3])
def test_a_run_on_images_shows_its_inputs_graph_predictions_and_mistakes(channels: int) -> None:
    module = classifier(channels, lr=0.0)
    with torch.no_grad():
        module.net[-1].weight.zero_()  # type: ignore[index]
        module.net[-1].bias.copy_(torch.tensor([5.0, 0.0]))  # type: ignore[index] # all are "left": half are mistakes
    events = fit(module, Squares(channels))
    assert sorted(events.Tags()["images"]) == VIEWS
    assert events.Tags()["graph"]


def inputs(**options: Any) -> EventAccumulator:
    seed_everything(0, verbose=False)
    return fit(classifier(), Squares(**options), TensorBoardViews(images=5))


def test_the_stored_images_are_shown_as_they_are_and_the_augmented_ones_as_the_network_saw_them() -> None:
    plain = inputs()
    assert (picture(plain, "inputs/stored") == picture(plain, "inputs/augmented")).all()  # normalised, stretched again


def test_augmented_images_differ_from_the_stored_ones() -> None:
    turned = inputs(augment=Augment(rotate=45))
    assert (picture(turned, "inputs/stored") != picture(turned, "inputs/augmented")).any()


def test_a_picture_of_inputs_shows_as_many_images_as_asked_for() -> None:
    # 6 x 6 pixels enlarged ten times with a margin of 1, in a row of 8 places: 5 images and 3 grey places
    shown = picture(inputs(), "inputs/stored")
    assert shown.shape == (62, 8 * 62)
    assert set(shown[:, 5 * 62 :].flatten().tolist()) <= {127, 128}
    assert all(255 in shown[:, i * 62 : (i + 1) * 62] for i in range(5))


def test_inputs_that_are_no_images_are_left_out() -> None:
    batches = Loader([(torch.randn(4, 5), torch.tensor([0, 1, 0, 1]))])
    module = Classifier(nn.Linear(5, 2), 2)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.01)  # type: ignore[assignment, method-assign]
    events = fit(module, batches)
    assert events.Tags()["images"] == ["confusion_matrix"]
    assert events.Tags()["graph"]


def test_a_module_without_logits_is_trained_without_the_pictures_of_predictions() -> None:
    batches = Loader([torch.ones(2, 32)])
    events = fit(BoringModel(), batches, monitor=None)
    assert events.Tags()["images"] == []
    assert events.Tags()["graph"]


@pytest.mark.parametrize(
    "outputs",
    [
        None,
        0.5,
        {"loss": torch.ones(())},
        {"logits": None},
        {"logits": torch.ones(4)},
        {"logits": torch.ones(4, 3, 2, 2)},
    ],
)
def test_outputs_of_another_form_give_no_pictures_of_predictions(outputs: Any) -> None:
    class Other(Scripted):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return outputs

    events = fit(Other([], []), LABELLED, monitor=None)
    assert events.Tags()["images"] == ["inputs/augmented", "inputs/stored"]


def test_a_network_that_can_not_be_traced_is_trained_without_its_graph(capfd: pytest.CaptureFixture[str]) -> None:
    class Strange(Scripted):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("not today")

    capfd.readouterr()
    events = fit(Strange([RIGHT], [1.0]), LABELLED, num_sanity_val_steps=0)
    assert not events.Tags()["graph"]
    assert "not today" not in "".join(capfd.readouterr())


def test_batches_without_a_known_number_are_shown_too() -> None:
    class Endless:
        def __iter__(self) -> Iterator[Any]:
            return iter(LABELLED)

    assert "inputs/stored" in fit(Scripted([RIGHT], [1.0]), Endless(), limit_val_batches=1).Tags()["images"]


def test_another_logger_is_left_alone() -> None:
    csv = CSVLogger(".", name="", version="csv")
    trainer = quick_trainer(logger=csv, callbacks=[TensorBoardViews()], log_every_n_steps=1)
    trainer.fit(classifier(), datamodule=Squares())
    assert not list(Path().rglob("events.out.*"))


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*sampler has shuffling enabled")
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_run_is_the_same_with_and_without_the_views(shuffled: bool) -> None:
    def weights(views: TensorBoardViews | None) -> dict[str, Tensor]:
        seed_everything(0, verbose=False)
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 2))
        module = Classifier(net, 2)
        module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.01)  # type: ignore[assignment, method-assign]
        data: Any = Squares(augment=Augment(rotate=20))
        if shuffled:  # by the global generator
            images, labels, _ = Squares().load_train()
            data = DataLoader(TensorDataset(images / 255, labels), batch_size=8, shuffle=True)
        fit(module, data, views, monitor=None, max_epochs=2, limit_val_batches=2)
        return module.state_dict()

    without, with_views = weights(None), weights(TensorBoardViews())
    assert all(torch.equal(without[name], with_views[name]) for name in without)


# ---- of which epoch


@pytest.mark.parametrize(
    ("losses", "best"), [([3.0, 1.0, 2.0], 1), ([1.0, 2.0, 3.0], 0), ([3.0, 2.0, 1.0], 2), ([1.0, 1.0, 1.0], 0)]
)
def test_the_pictures_show_the_best_epoch_and_stand_at_its_step(losses: list[float], best: int) -> None:
    predictions = [WRONG if epoch == best else RIGHT for epoch in range(3)]
    events = fit(Scripted(predictions, losses), LABELLED, max_epochs=3)
    assert [event.step for event in events.Images("confusion_matrix")] == [best + 1]
    assert [event.step for event in events.Images("mistakes")] == [best + 1]  # the other epochs have none


def test_mistakes_of_another_epoch_are_not_shown() -> None:
    events = fit(Scripted([WRONG, RIGHT, WRONG], [2.0, 1.0, 3.0]), LABELLED, max_epochs=3)
    assert "confusion_matrix" in events.Tags()["images"]
    assert "mistakes" not in events.Tags()["images"]


def test_without_a_monitor_the_pictures_show_the_last_epoch() -> None:
    module = Scripted([RIGHT, RIGHT, WRONG], [1.0, 2.0, 3.0])
    events = fit(module, LABELLED, max_epochs=3, monitor=None)
    assert [event.step for event in events.Images("mistakes")] == [3]


def test_the_sanity_check_is_no_epoch() -> None:
    class Nervous(Scripted):
        def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
            if self.trainer.sanity_checking:
                self.log("val/loss", 0.0)
                return {"logits": F.one_hot(torch.tensor(WRONG), 3).float()}
            return super().validation_step(batch, batch_idx)

    events = fit(Nervous([RIGHT], [1.0]), LABELLED)
    assert "mistakes" not in events.Tags()["images"]


def test_a_first_epoch_without_a_number_is_not_the_best() -> None:
    module = Scripted([WRONG, RIGHT], [float("nan"), 1.0])
    events = fit(module, LABELLED, max_epochs=2)
    assert [event.step for event in events.Images("confusion_matrix")] == [2]


# ---- the pictures


def texts(figure: Any) -> dict[tuple[int, int], str]:
    """Row and column of each number in the matrix."""
    return {
        (round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in figure.axes[0].texts
    }


def test_the_confusion_matrix_counts_labels_by_row_and_predictions_by_column() -> None:
    labels, predicted = torch.tensor([0, 0, 0, 1, 2, 2]), torch.tensor([0, 0, 2, 1, 2, 2])
    figure = draw_confusion(labels, predicted, ["a", "b", "c"], "epoch 3")
    assert texts(figure) == {(0, 0): "2", (0, 2): "1", (1, 1): "1", (2, 2): "2"}
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("predicted", "label", "epoch 3")
    # the colour is the share of the label's row
    np.testing.assert_allclose(axes.images[0].get_array(), [[2 / 3, 0, 1 / 3], [0, 1, 0], [0, 0, 1]], rtol=1e-6)


def test_a_class_that_never_occurs_is_an_empty_row() -> None:
    figure = draw_confusion(torch.tensor([0]), torch.tensor([0]), ["a", "b"], "")
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), [[1, 0], [0, 0]])


def test_many_classes_are_shown_without_numbers() -> None:
    figure = draw_confusion(torch.arange(100), torch.arange(100), [str(i) for i in range(100)], "")
    assert texts(figure) == {}
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), np.eye(100))


def test_mistakes_come_with_the_surest_first_and_right_answers_not_at_all() -> None:
    labels, predicted = torch.tensor([0, 1, 1, 0]), torch.tensor([1, 1, 0, 1])
    confidence = torch.tensor([0.6, 0.99, 0.9, 0.75])
    images = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    figure = draw_mistakes(images, labels, predicted, confidence, ["cat", "dog"], "epoch 3")
    captions = figure.axes[0].texts
    assert [text.get_text() for text in captions] == ["dog → cat, 90%", "cat → dog, 75%", "cat → dog, 60%"]
    shown = figure.axes[0].images[0].get_array()
    starts = [round(text.get_position()[0] * 4 / shown.shape[1]) for text in captions]  # in a row of four
    assert starts == [0, 1, 2]
    for place, image in enumerate((2, 3, 0)):
        first, last = place * shown.shape[1] // 4, (place + 1) * shown.shape[1] // 4
        expected = tile(images[image : image + 1], columns=1, size=96)[0]
        np.testing.assert_allclose(shown[:, first:last], expected.numpy())


def test_no_mistake_gives_no_picture() -> None:
    labels = torch.tensor([0, 1])
    assert draw_mistakes(torch.rand(2, 1, 6, 6), labels, labels, torch.ones(2), ["a", "b"], "") is None


def test_tiles_are_enlarged_stretched_and_framed() -> None:
    x = torch.tensor([[[[-1.0, 3.0]]], [[[5.0, 5.0]]]])  # two images of 1 x 2 pixels
    picture = tile(x, columns=3, size=4)  # twice as large, with a margin of 1
    row = [0.5, 0, 0, 1, 1, 0.5] + [0.5, 0, 0, 0, 0, 0.5] + [0.5] * 6
    edge = [0.5] * 18
    assert picture.tolist() == [[edge, row, row, edge]]


# ---- hyper-parameters


def hparams_session(tag: str) -> Any:
    content = read("run/best").SummaryMetadata(tag).plugin_data.content
    if tag == metadata.SESSION_START_INFO_TAG:
        return metadata.parse_session_start_info_plugin_data(content)
    return metadata.parse_session_end_info_plugin_data(content)


def test_hyper_parameters_can_be_read_back_with_their_types() -> None:
    log_hparams("run", {"lr": 0.01, "width": 32, "optimizer": "SGD", "betas": [0.9, 0.99]})
    found = hparams_session(metadata.SESSION_START_INFO_TAG).hparams
    assert found["lr"].number_value == 0.01
    assert found["width"].number_value == 32
    assert found["optimizer"].string_value == "SGD"
    assert found["betas"].string_value == "[0.9, 0.99]"


def test_the_best_metrics_are_curves_of_one_point_and_the_run_is_finished() -> None:
    log_hparams("run", {"lr": 0.01})
    log_best("run", {"val/loss": 0.25, "test/acc": 0.875}, step=57)
    events = read("run/best")
    assert sorted(events.Tags()["scalars"]) == ["test/acc", "val/loss"]
    assert [(e.step, e.value) for e in events.Scalars("val/loss")] == [(57, 0.25)]
    assert [(e.step, e.value) for e in events.Scalars("test/acc")] == [(57, 0.875)]
    assert hparams_session(metadata.SESSION_END_INFO_TAG).status == 1  # STATUS_SUCCESS
