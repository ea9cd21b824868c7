"""`datamodules.ImageArrays`: split, batches and normalisation of a set that a user brings along."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from PIL import Image
from torch import Tensor, nn

from datamodules import Augment, Digits, ImageArrays
from tests.conftest import quick_trainer


class Fruit(ImageArrays):
    """What a user writes: 90 RGB images of 4 x 6 pixels, 45 apples, 30 pears, 15 plums."""

    def load_train(self) -> tuple[Tensor, Tensor, list[str]]:
        images = torch.randint(0, 256, (90, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        images[:, 1] //= 4  # darker green
        return images, torch.tensor([0, 0, 0, 1, 1, 2]).repeat(15), ["apple", "pear", "plum"]

    def load_test(self) -> tuple[Tensor, Tensor]:
        return torch.full((7, 3, 4, 6), 9, dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1, 2, 0])


class Given(ImageArrays):
    """Any tensors."""

    def __init__(self, images: Tensor, labels: Tensor, names: str, test: Tensor | None = None, **options: Any) -> None:
        super().__init__(**{"batch_size": 4, **options})
        self.train, self.test = (images, labels, list(names)), images[:2] if test is None else test

    def load_train(self) -> tuple[Tensor, Tensor, list[str]]:
        return self.train

    def load_test(self) -> tuple[Tensor, Tensor]:
        return self.test, torch.zeros(len(self.test), dtype=torch.int64)


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def ready(data: ImageArrays, stage: str = "fit") -> Any:
    data.setup(stage)
    return data


# ---- split


def parts(**options: Any) -> tuple[list[int], list[int]]:
    data = ready(Fruit(**options))
    return data.parts["train"].tolist(), data.parts["val"].tolist()


def test_training_and_validation_are_disjoint_and_complete() -> None:
    train, val = parts(val_fraction=0.2)
    assert sorted(train + val) == list(range(90))
    assert len(val) == 18


def test_each_class_has_its_share_in_both_parts() -> None:
    data = ready(Fruit(val_fraction=0.2))
    assert torch.bincount(data.labels[data.parts["val"]]).tolist() == [9, 6, 3]
    assert torch.bincount(data.labels[data.parts["train"]]).tolist() == [36, 24, 12]


def test_the_split_follows_split_seed_and_no_other_seed() -> None:
    seed_everything(1, verbose=False)
    first = parts(split_seed=3)
    seed_everything(2, verbose=False)
    assert parts(split_seed=3) == first
    assert parts(split_seed=4) != first


def test_splitting_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    parts()
    after = torch.rand(1).item(), np.random.rand()
    torch.manual_seed(0)
    np.random.seed(0)
    assert after == (torch.rand(1).item(), np.random.rand())


# ---- what the network is told, normalisation


def test_the_network_is_told_what_the_images_are_without_setup() -> None:
    data = Fruit()
    assert (data.in_channels, data.image_size, data.num_classes) == (3, (4, 6), 3)
    assert data.class_names == ["apple", "pear", "plum"]


def test_mean_and_deviation_are_those_of_the_training_part_alone() -> None:
    data = ready(Fruit(batch_size=8, val_fraction=0.4))
    x = data.images.numpy()[data.parts["train"].numpy()].astype(np.float64)
    assert data.facts["mean"] == pytest.approx(x.mean((0, 2, 3)))
    assert data.facts["std"] == pytest.approx(x.std((0, 2, 3)))
    assert data.facts["mean"] != pytest.approx(data.images.numpy().mean((0, 2, 3)), abs=1e-3)


def test_normalised_training_images_have_mean_0_and_deviation_1_per_channel() -> None:
    data = ready(Fruit())
    x = data.on_after_batch_transfer((data.images[data.parts["train"]], data.labels[data.parts["train"]]), 0)[0]
    assert x.dtype == torch.float32
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)


def test_a_channel_without_any_contrast_becomes_0() -> None:
    images = noise(30, 2, 4, 4)
    images[:, 1] = 77
    data = ready(Given(images, torch.arange(30) % 2, "ab"))
    x = data.on_after_batch_transfer(images, 0)
    assert torch.equal(x[:, 1], torch.zeros(30, 4, 4))
    assert x.isfinite().all()


# ---- batches


def test_batches_come_as_they_are_stored_and_hold_their_own_part() -> None:
    data = ready(Fruit(batch_size=10, eval_batch_size=8))
    images, labels = next(iter(data.train_dataloader()))
    assert images.dtype == torch.uint8
    assert images.shape == (10, 3, 4, 6)
    assert labels.dtype == torch.int64
    validated = torch.cat([y for _, y in data.val_dataloader()])
    assert torch.equal(validated, data.labels[data.parts["val"]])
    assert [len(y) for _, y in data.val_dataloader()] == [8, 6]  # 14 = round(0.15 x 90)
    assert len(data.train_dataloader()) == 7  # 76 // 10


def test_the_test_images_come_all_and_in_order() -> None:
    data = ready(Fruit(eval_batch_size=4), "test")
    assert [y.tolist() for _, y in data.test_dataloader()] == [[0, 1, 2, 0], [1, 2, 0]]


def test_the_order_of_training_follows_seed_everything() -> None:
    def order(seed: int) -> list[list[int]]:
        seed_everything(seed, verbose=False)
        return [x.flatten().tolist() for x, _ in ready(Fruit(batch_size=10)).train_dataloader()]

    assert order(1) == order(1)
    assert order(1) != order(2)


class Watcher(LightningModule):
    """Keeps the images that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: dict[str, list[Tensor]] = {"train": [], "val": [], "test": []}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen["train"].append(batch[0])
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.seen["val"].append(batch[0])

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.seen["test"].append(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def watch(seed: int = 0, **options: Any) -> tuple[ImageArrays, dict[str, list[Tensor]]]:
    seed_everything(seed, verbose=False)
    data, module = Fruit(batch_size=38, **options), Watcher()
    trainer = quick_trainer(max_epochs=2, num_sanity_val_steps=0)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    return data, module.seen


def normalised(data: ImageArrays, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(data.facts[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (images - mean) / std


def test_images_are_augmented_in_training_and_nowhere_else() -> None:
    data, seen = watch(augment=Augment(rotate=20, shift=0.1))
    expected = normalised(data, data.images[data.parts["val"]])  # type: ignore[attr-defined]
    assert all(torch.allclose(x, expected, atol=1e-5) for x in seen["val"])
    assert torch.allclose(seen["test"][0], normalised(data, data.test_images), atol=1e-5)  # type: ignore[attr-defined]
    stored = normalised(data, data.images)  # type: ignore[attr-defined]
    distance = (torch.cat(seen["train"])[:, None] - stored).abs().amax((2, 3, 4)).amin(1)
    assert (distance > 1e-3).all()  # no image of training is one of those stored


def test_without_augmentation_training_sees_the_stored_images() -> None:
    data, seen = watch()
    stored = normalised(data, data.images[data.parts["train"]])  # type: ignore[attr-defined]
    for epoch in (0, 1):
        shown = torch.cat(seen["train"][2 * epoch : 2 * epoch + 2])
        assert (shown[:, None] - stored).abs().amax((2, 3, 4)).argmin(1).unique().numel() == 76
    assert not torch.equal(seen["train"][0], seen["train"][2])  # in another order


def test_augmentation_is_repeated_by_the_seed_and_differs_between_batches_and_epochs() -> None:
    augment = Augment(rotate=20)
    _, first = watch(seed=1, augment=augment)
    _, again = watch(seed=1, augment=augment)
    assert all(torch.equal(a, b) for a, b in zip(first["train"], again["train"], strict=True))

    flat = Given(torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).repeat(80, 1, 1, 1), torch.arange(80) % 2, "ab")
    flat.batch_size, flat.augment = 34, augment  # 68 equal images: what differs is the augmentation
    module = Watcher()
    quick_trainer(max_epochs=2).fit(module, datamodule=flat)
    assert len({tuple(image.flatten().tolist()) for batch in module.seen["train"] for image in batch}) == 4 * 34


# ---- what a checkpoint keeps


def test_the_state_is_of_plain_types_that_torch_loads_safely() -> None:
    torch.save(Fruit().state_dict(), "state.pt")
    state = torch.load("state.pt", weights_only=True)
    assert state["class_names"] == ["apple", "pear", "plum"]
    assert state["image_size"] == [4, 6]


def test_a_loaded_state_normalises_predictions_even_where_the_files_are_gone() -> None:
    class Gone(ImageArrays):
        def load_train(self) -> tuple[Tensor, Tensor, list[str]]:
            raise FileNotFoundError

    state = {"in_channels": 1, "image_size": [2, 3], "class_names": ["a", "b"], "mean": [100.0], "std": [50.0]}
    Image.fromarray(np.full((2, 3), 200, dtype=np.uint8)).save("a.png")
    data = Gone(eval_batch_size=2)
    data.load_state_dict(state)
    data.setup("predict")
    data.read_files([Path("a.png")] * 3)
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.predict_dataloader()]
    assert [batch.shape for batch in batches] == [(2, 1, 2, 3), (1, 1, 2, 3)]
    assert all((batch == 2).all() for batch in batches)  # (200 - 100) / 50
    assert data.class_names == ["a", "b"]


def test_a_loaded_normalisation_stays_though_the_training_images_changed() -> None:
    saved = ready(Given(noise(30, 1, 4, 4), torch.arange(30) % 2, "ab")).state_dict()
    data = Given(noise(30, 1, 4, 4) // 8, torch.arange(30) % 2, "ab")
    data.load_state_dict(saved)
    ready(data)
    assert data.facts["mean"] == saved["mean"]


# ---- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": -1}, "data.batch_size: -1 is below 0"),
        ({"eval_batch_size": -1}, "data.eval_batch_size: -1 is below 1"),
        ({"val_fraction": 0.0}, "data.val_fraction: 0.0 is outside (0, 1)"),
        ({"val_fraction": 1.0}, "data.val_fraction: 1.0 is outside (0, 1)"),
        ({"split_seed": -1}, "data.split_seed: -1 is outside [0, 4294967295]"),
        (
            {"batch_size": 77},
            "data.batch_size: 77 is larger than the training part; allowed are 1 to 76, and 0 for all of it",
        ),
        (
            {"val_fraction": 0.02},
            "data.val_fraction: 0.02 holds out 2 of 90 images, and both parts need at least one of each of the 3 "
            "classes",
        ),
        (
            {"val_fraction": 0.98},
            "data.val_fraction: 0.98 holds out 88 of 90 images, and both parts need at least one of each of the 3 "
            "classes",
        ),
    ],
)
def test_impossible_values_are_refused_by_the_name_of_their_key(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Fruit(**options).setup("fit")


def test_the_whole_training_part_may_be_one_batch() -> None:
    for size in (76, 0):
        (batch,) = ready(Fruit(batch_size=size)).train_dataloader()
        assert len(batch[0]) == 76


def test_a_class_with_a_single_image_is_named() -> None:
    labels = torch.tensor([0] * 15 + [1] * 14 + [2])
    with pytest.raises(ValueError, match=r"^data: class 'c' has a single image, and training and validation need one"):
        Given(noise(30, 1, 4, 4), labels, "abc").setup("fit")


@pytest.mark.parametrize(
    ("labels", "names"), [(torch.arange(30) % 2, "abc"), (torch.arange(30) % 2 + 1, "ab")], ids=["empty", "from 1"]
)
def test_a_class_without_any_image_is_named_as_such(labels: Tensor, names: str) -> None:
    with pytest.raises(ValueError, match=r"no image|0 images|from 0"):
        Given(noise(30, 1, 4, 4), labels, names).setup("fit")


def test_labels_and_images_must_be_as_many() -> None:
    with pytest.raises(ValueError, match=r"^data: load_train gives 30 images and 29 labels$"):
        Given(noise(30, 1, 4, 4), torch.arange(29) % 2, "ab").setup("fit")


@pytest.mark.parametrize(("shape", "said"), [((3, 1, 5, 4), "1x5x4"), ((3, 3, 4, 4), "3x4x4")])
def test_test_images_of_another_shape_are_refused(shape: tuple[int, ...], said: str) -> None:
    data = Given(noise(30, 1, 4, 4), torch.arange(30) % 2, "ab", test=noise(*shape))
    with pytest.raises(ValueError, match=rf"^data: the test images are {said} and the training images 1x4x4$"):
        data.setup("test")


def test_a_batch_that_the_devices_can_not_share_is_refused_with_the_nearest_that_they_can() -> None:
    data = Fruit(batch_size=10)
    data.trainer = quick_trainer(devices=3, strategy="ddp")
    with pytest.raises(ValueError, match=r"^data\.batch_size: 10 is shared by 3 devices .* nearest is 9$"):
        data.setup("fit")


def test_a_subclass_without_images_says_what_to_define() -> None:
    class Empty(ImageArrays):
        pass

    with pytest.raises(NotImplementedError, match=r"^Empty must define load_train$"):
        Empty().setup("fit")


def test_predicting_without_files_says_what_to_set() -> None:
    with pytest.raises(ValueError, match=r"^data: nothing to predict; .*read_files"):
        ready(Fruit(), "predict").predict_dataloader()


def test_numpy_arrays_do_as_well_as_tensors() -> None:
    class Arrays(ImageArrays):
        def load_train(self) -> Any:
            images = np.random.default_rng(0).integers(0, 256, (60, 3, 6, 5), dtype=np.uint8)
            return images, np.arange(60) % 3, ["a", "b", "c"]

    data = Arrays(batch_size=8)
    data.setup("fit")
    images, labels = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype, labels.dtype) == ((8, 3, 6, 5), torch.uint8, torch.int64)
    assert not data.has_test_data


def test_counts_are_those_of_the_training_part() -> None:
    data = Digits(val_fraction=0.2)
    counts = data.class_counts
    assert sum(counts) == len(data.parts["train"])
    assert counts[3] == int((data.labels[data.parts["train"]] == 3).sum())
