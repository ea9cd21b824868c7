"""`datamodules.ImageFolder`: parts, labels and warnings of images in folders, and what comes out of odd files."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from datamodules import DigitImages, Digits, ImageFolder
from datamodules.digit_images import write_digits

ROOT = Path("my images")


def save(name: str, content: Any = None, **options: Any) -> None:
    """An image; of noise that the name decides on, if nothing else is said."""
    path = ROOT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        seed = list(name.encode())
        content = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(np.asarray(content)).save(path, **options)


def fill(*folders: str, count: int = 20) -> None:
    for folder in folders:
        for i in range(count):
            save(f"{folder}/{i}.png")


def data(**options: Any) -> ImageFolder:
    found = ImageFolder(str(ROOT), **({"size": 8, "batch_size": 4} | options))
    found.setup("fit")
    return found


def sizes(found: ImageFolder) -> dict[str, int]:
    return {name: len(indices) for name, indices in found.parts.items()}


def test_parts_are_drawn_with_each_class_s_share() -> None:
    fill("cat", "dog")
    fill("9 lives", count=40)
    found = data()
    assert found.class_names == ["9 lives", "cat", "dog"]
    assert sizes(found) == {"train": 56, "val": 12, "test": 12}
    assert found.has_test_data
    for name, indices in found.parts.items():
        counts = torch.bincount(found.labels[indices]).tolist()
        assert counts == ([28, 14, 14] if name == "train" else [6, 3, 3])
    assert found.class_counts == [28, 14, 14]
    assert torch.equal(torch.cat(list(found.parts.values())).sort().values, torch.arange(80))
    assert torch.equal(data().parts["val"], found.parts["val"])
    assert not torch.equal(data(split_seed=1).parts["val"], found.parts["val"])
    assert sizes(data(test_fraction=0.0)) == {"train": 68, "val": 12}


def test_folders_for_parts_are_the_parts() -> None:
    fill("train/a", "train/b")
    fill("test/a", "test/b", count=3)
    found = data()
    assert sizes(found) == {"train": 34, "val": 6, "test": 6}
    fill("val/b", count=2)
    assert sizes(data()) == {"train": 40, "val": 2, "test": 6}


def test_only_a_training_folder_and_one_for_validation_means_that_there_is_no_test() -> None:
    fill("train/a", "train/b", "val/a", "val/b", count=3)
    assert not data().has_test_data


def test_a_table_says_what_is_what() -> None:
    fill("all", count=12)
    lines = [f"all/{i}.png;{i % 2};{'test' if i < 4 else 'train'}" for i in range(12)]
    Path("my labels.csv").write_text("\n".join(["path;label;split", *lines]), encoding="utf-8")
    found = data(labels="my labels.csv", val_fraction=0.25)
    assert found.class_names == ["0", "1"]
    assert sizes(found) == {"train": 6, "val": 2, "test": 4}


def test_batches_are_normalised_by_the_training_part() -> None:
    fill("a", "b")
    found = data(batch_size=0)
    (batch,) = found.train_dataloader()
    assert batch[0].dtype == torch.uint8
    x, _ = found.on_after_batch_transfer(batch, 0)
    assert x.shape == (28, 3, 8, 8)
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4)


SMOOTH = np.linspace(0, 255, 8 * 8).reshape(8, 8)


def test_mean_and_standard_deviation_may_be_those_of_other_images() -> None:
    fill("a", "b")
    found = data(mean=[0.5, 0.4, 0.3], std=[0.2, 0.25, 0.5])
    stored = found.images[:3]
    x = found.on_after_batch_transfer(stored, 0)
    for channel, (mean, std) in enumerate(((0.5, 0.2), (0.4, 0.25), (0.3, 0.5))):
        assert torch.allclose(x[:, channel], (stored[:, channel] / 255 - mean) / std, atol=1e-5)
    own = data(mean=[0.5, 0.4, 0.3]).facts
    assert own["mean"] == [127.5, 102.0, 76.5]
    assert own["std"] == data().facts["std"]
    for name, values in (("mean", [0.5]), ("std", [0.2, 0.2, 0.0])):
        with pytest.raises(ValueError, match=rf"data.{name}: \[.*\]; allowed are 3 numbers from (0.0|1e-06) on"):
            data(**{name: values})


def test_kinds_of_images_come_out_right() -> None:
    grey = SMOOTH.round().astype(np.uint8)
    save("a/grey.png", grey)
    save("a/sixteen.png", (SMOOTH * 257).round().astype(np.uint16))
    save("a/alpha.png", np.dstack([grey, grey, grey, np.full_like(grey, 128)]))
    Image.fromarray(grey).convert("P").save(ROOT / "a/palette.gif")
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    save("a/turned.webp", np.rot90(np.dstack([grey] * 3), 2), exif=exif, lossless=True)
    save("a/colour.jpg", np.dstack([grey, grey, grey]), quality=100)
    fill("b", count=6)
    found = data()
    names = ["alpha.png", "colour.jpg", "grey.png", "palette.gif", "sixteen.png", "turned.webp"]
    expected = {"alpha.png": SMOOTH * 128 / 255}
    for i, name in enumerate(names):
        for channel in found.images[i].numpy():
            assert np.abs(channel - expected.get(name, SMOOTH)).max() <= 2, name


@pytest.mark.parametrize(
    ("fit", "bright"),
    [
        ("crop", np.ones((4, 4), bool)),
        ("pad", np.outer([False, True, True, False], [False, True, True, False])),
        ("stretch", np.outer([True] * 4, [False, True, True, False])),
    ],
)
def test_an_image_of_other_proportions_is_fitted_as_the_key_says(fit: str, bright: np.ndarray) -> None:
    # black, 200 in the middle half, black: cropped, the middle is left; padded, it has black around
    wide = np.zeros((80, 160), dtype=np.uint8)
    wide[:, 40:120] = 200
    fill("a", "b", count=10)
    save("a/0.png", wide)
    found = data(size=(4, 4), channels=1, fit=fit)
    assert ((found.images[0, 0].numpy() > 100) == bright).all()


def test_predictions_are_from_images_that_are_fitted_as_in_training() -> None:
    fill("a", "b")
    found = data(fit="pad", channels=1)
    path = ROOT / "a/3.png"
    (batch,) = found.read_files([path])
    i = sorted(p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.png")).index("a/3.png")
    assert torch.equal(batch[0], found.images[i])
    assert found.state_dict()["fit"] == "pad"


def test_bad_files_are_named_and_left_out_up_to_a_number() -> None:
    fill("a", "b")
    for i in range(4):
        (ROOT / f"a/bad {i}.png").write_bytes(b"x" * i)
    with pytest.warns(UserWarning, match=r"^4 of 44 files of my images can't be used: a/bad 0.png \(0 bytes\), .*, …"):
        found = data()
    assert sum(sizes(found).values()) == 40
    (listed,) = Path("data/cache").glob("*/bad_files.csv")
    assert listed.read_text().splitlines() == [
        "path,reason",
        "a/bad 0.png,0 bytes",
        *(f"a/bad {i}.png,no image" for i in (1, 2, 3)),
    ]
    with pytest.raises(ValueError, match=r"^data.max_bad_files: 3, and 4 of 44 files of my images can't be used: "):
        data(max_bad_files=3)


def test_the_same_image_in_two_parts_or_with_two_labels_is_told() -> None:
    fill("train/a", "train/b")
    fill("test/a", "test/b", count=3)
    save("train/a/twin.png", np.zeros((3, 3), np.uint8))
    save("test/a/1 twin.png", np.zeros((3, 3), np.uint8))
    with pytest.warns(UserWarning, match=r"1 image of the test part among the training images: .*twin.png is train"):
        data(val_fraction=0.05)
    (ROOT / "test/a/1 twin.png").rename(ROOT / "train/b/twin.png")
    with pytest.warns(UserWarning, match=r"^1 image with two labels, in files that are the same: train/b/twin"):
        data(val_fraction=0.05)


def test_images_that_are_the_same_are_drawn_into_the_same_part() -> None:
    fill("b")
    for i in range(20):
        for copy in "xyz":
            save(f"a/{i}{copy}.png", np.full((3, 3), i, np.uint8))
    found = data()  # which warns of nothing
    twin = found.images.flatten(1)[:, 0][found.labels == 0]
    parts = torch.zeros(len(found.labels), dtype=torch.int64)
    for number, indices in enumerate(found.parts.values()):
        parts[indices] = number
    for value in range(20):
        assert len(parts[found.labels == 0][twin == value].unique()) == 1


@pytest.mark.parametrize(
    ("folders", "options", "message"),
    [
        (["a"], {}, "data.root: my images has a single class, 'a'; each class needs a folder"),
        (
            ["a", "b"],
            {"val_fraction": 0.01},
            "data.val_fraction: 0.01 holds out 0 of 40 images, and each part needs",
        ),
        (["a", "b"], {"batch_size": 29}, "data.batch_size: 29 is larger than the training part; allowed are 1 to 28,"),
        (["train/a", "train/b", "test/cc"], {}, "data.root: test/cc/0.png is of class 'cc', which has no training"),
        (["a", "b"], {"size": (3, 0)}, "data.size: (3, 0) is no number of pixels"),
        (["a", "b"], {"channels": 2}, "data.channels: 2 is neither 1 (grey) nor 3 (colours)"),
        (["a", "b"], {"fit": "cut"}, "data.fit: 'cut' is unknown; allowed are crop, pad, stretch"),
        (["a", "b"], {"test_fraction": 0.9}, "data.val_fraction: 0.15 and test_fraction 0.9 leave nothing to train on"),
        (["a", "b"], {"sampler": "even"}, "data.sampler: 'even' is unknown; allowed are shuffle, balanced"),
        (["a", "b"], {"num_workers": 0}, "data.num_workers: 0 is below 1"),
        (["a", "b"], {"max_bad_files": -1}, "data.max_bad_files: -1 is below 0"),
    ],
)
def test_what_can_not_be_is_told(folders: list[str], options: dict[str, Any], message: str) -> None:
    fill(*folders)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        data(**options)


def test_a_class_with_too_few_images_is_named() -> None:
    fill("a")
    save("b/1.png")
    with pytest.raises(ValueError, match=r"^data.root: class 'b' has 1 image, and each of 3 parts needs one$"):
        data()


def test_the_digits_are_those_of_the_arrays() -> None:
    found, arrays = DigitImages("digits", size=8), Digits()
    found.setup("fit")
    arrays.setup("fit")
    assert sizes(found) == {"train": 1437 - 216, "val": 216, "test": 360}
    inputs, labels, indices = found.part("test")
    assert torch.equal(inputs[indices].flatten(1).sort(0).values, arrays.test_images.flatten(1).sort(0).values)
    assert torch.bincount(labels[indices]).tolist() == torch.bincount(arrays.test_labels).tolist()
    with pytest.raises(FileExistsError, match=r"^digits exists already; give another name$"):
        write_digits(Path("digits"))
    assert write_digits(Path("new/ones")) == len(load_digits().target)
    assert [p.name for p in Path("new").iterdir()] == ["ones"]
