"""`python scripts/predict.py`: a user's own files."""

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import Digits
from runs import Run
from tests.conftest import Command

CLASSES = [str(digit) for digit in range(10)]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def save(path: str | Path, pixels: np.ndarray) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, list[int]]:
    """The test images `(360, 8, 8)` uint8 and their labels."""
    images, labels = Digits().load_test()
    return images[:, 0].numpy(), labels.tolist()


Digit = tuple[np.ndarray, list[int]]


def test_image_files_are_predicted_as_well_as_the_test_images(command: Command, trained: Run, digits: Digit) -> None:
    paths = [save(f"{i}.png", image) for i, image in enumerate(digits[0])]
    result = command("predict", trained.folder, *paths)
    assert (result.status, result.err) == (0, "")
    table = rows(result.out)
    assert [row["file"] for row in table] == paths, "in the order given"
    right = sum(row["prediction"] == str(label) for row, label in zip(table, digits[1], strict=True))
    assert right == round(trained.summary["test"]["test/acc"] * 360)


def test_a_row_holds_the_probability_of_each_class(command: Command, trained: Run, digits: Digit) -> None:
    paths = [save(f"{i}.png", image) for i, image in enumerate(digits[0][:5])]
    table = rows(command("predict", trained.folder, *paths).out)
    assert list(table[0]) == ["file", "prediction", "confidence", *CLASSES]
    for row in table:
        probabilities = {name: float(row[name]) for name in CLASSES}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert row["prediction"] == max(probabilities, key=probabilities.__getitem__)
        assert float(row["confidence"]) == max(probabilities.values())


def test_the_python_interface_predicts_what_the_command_does(command: Command, trained: Run, digits: Digit) -> None:
    path = save("7.png", digits[0][7])
    module, _ = trained.load()
    assert not module.training
    facts = torch.load(trained.checkpoint(), weights_only=True)["Digits"]
    image = (torch.from_numpy(digits[0][7]).float()[None, None] - facts["mean"][0]) / facts["std"][0]
    with torch.no_grad():
        expected = module(image).softmax(1)[0].tolist()
    row = rows(command("predict", trained.folder, path).out)[0]
    assert [float(row[name]) for name in CLASSES] == pytest.approx(expected, abs=1e-5)


def test_unreadable_files_are_named_and_the_others_predicted(command: Command, trained: Run, digits: Digit) -> None:
    good, other = save("good.png", digits[0][0]), save("other.png", digits[0][1])
    Path("text.png").write_text("no image")
    Path("empty.png").touch()
    Path("cut.png").write_bytes(Path(good).read_bytes()[:50])
    bad = ["text.png", "empty.png", "cut.png", "missing.png"]
    result = command("predict", trained.folder, bad[0], good, *bad[1:], other, "--out", "p.csv")
    assert result.status == 1
    assert [row["file"] for row in rows(Path("p.csv").read_text())] == [good, other]
    lines = result.err.splitlines()
    assert len(lines) == 4
    assert all(name in line for name, line in zip(bad, lines, strict=True))
    assert "2 of 6" in result.out


def test_nothing_readable_is_exit_status_1_and_leaves_no_table(command: Command, trained: Run) -> None:
    Path("text.png").write_text("no image")
    result = command("predict", trained.folder, "text.png", "--out", "p.csv")
    assert result.status == 1
    assert "text.png" in result.err
    assert not Path("p.csv").exists()


def test_an_existing_table_is_replaced_only_when_asked_to(command: Command, trained: Run, digits: Digit) -> None:
    image = save("0.png", digits[0][0])
    Path("p.csv").write_text("precious")
    refused = command("predict", trained.folder, image, "--out", "p.csv")
    assert refused.status == 2
    assert refused.err.startswith("error: --out: p.csv exists already")
    assert Path("p.csv").read_text() == "precious"
    assert command("predict", trained.folder, image, "--out", "p.csv", "--overwrite").status == 0
    assert rows(Path("p.csv").read_text())[0]["file"] == "0.png"


def test_a_folder_stands_for_its_files_by_name(command: Command, trained: Run, digits: Digit) -> None:
    for i, name in enumerate(("b.png", "a.png", ".hidden.png", "deeper/c.png")):
        save(Path("scans", name), digits[0][i])
    Path("scans/notes.txt").write_text("no image, and not taken for one")
    last = save("first.png", digits[0][5])
    result = command("predict", trained.folder, last, "scans")
    assert (result.status, result.err) == (0, "")
    files = [row["file"] for row in rows(result.out)]
    assert files == ["first.png", "scans/a.png", "scans/b.png", "scans/deeper/c.png"]


@pytest.mark.parametrize("name", ["two words.png", 'com,ma "quoted".png', "ünï-数字.png", "-dash.png", "a'b.png"])
def test_odd_file_names_come_through_whole(command: Command, trained: Run, digits: Digit, name: str) -> None:
    save(name, digits[0][0])
    result = command("predict", trained.folder, f"./{name}" if name[0] == "-" else name, "--out", "out table.csv")
    assert (result.status, result.err) == (0, "")
    assert [row["file"] for row in rows(Path("out table.csv").read_text(encoding="utf-8"))] == [name]


def test_a_large_colour_jpeg_suits_a_network_for_small_grey_images(
    command: Command, trained: Run, digits: Digit
) -> None:
    big = np.repeat(np.repeat(digits[0][0], 16, 0), 16, 1)
    small, large = save("small.png", digits[0][0]), "large.jpg"
    Image.fromarray(np.stack([big] * 3, axis=-1)).save(large, quality=95)
    first, second = rows(command("predict", trained.folder, small, large).out)
    assert [float(second[n]) for n in CLASSES] == pytest.approx([float(first[n]) for n in CLASSES], abs=0.05)


def test_the_same_prediction_comes_from_any_batch_size_and_checkpoint_of_the_same_epoch(
    command: Command, trained: Run, digits: Digit
) -> None:
    paths = [save(f"{i}.png", image) for i, image in enumerate(digits[0][:5])]
    table = rows(command("predict", trained.folder, *paths).out)
    again = rows(command("predict", trained.folder, *paths, "--ckpt", "last", "--data.eval_batch_size", "2").out)
    for row, other in zip(table, again, strict=True):
        assert [float(other[n]) for n in CLASSES] == pytest.approx([float(row[n]) for n in CLASSES], abs=2e-6)


def test_predicting_needs_no_training_data(command: Command, tmp_path: Path, digits: Digit) -> None:
    from tests.conftest import SMALL, make_idx_set

    make_idx_set(Path("idx"), classes=(3, 5, 9), size=8)
    data = ["--data", "datamodules.MNIST", "--data.data_dir", "idx", "--data.batch_size", "16"]
    assert command("fit", *SMALL, *data, "--trainer.log_every_n_steps", "1").status == 0
    shutil.rmtree("idx")
    result = command("predict", "cnn", save("0.png", digits[0][0]), "--data.mirrors", "[]")
    assert result.status == 0, result.err
    assert list(rows(result.out)[0])[3:] == ["3", "5", "9"]


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["cnm", "x.png"], ["'cnm'", "did you mean 'cnn'?"]),
        (["cnn"], ["inputs", "usage: python scripts/predict.py"]),
        (["cnn", "x.png", "--out", "missing/p.csv"], ["--out", "missing"]),
        (["cnn", "x.png", "--out", "lightning_logs", "--overwrite"], ["--out", "lightning_logs"]),
        (["cnn", "empty"], ["nothing to predict", "empty"]),
        pytest.param(["cnn", "x.png", "--outt", "p.csv"], ["outt", "--out"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(command: Command, trained: Run, args: list[str], parts: list[str]) -> None:
    shutil.copytree(trained.folder, "lightning_logs/cnn/version_0")
    Path("empty").mkdir()
    result = command("predict", *args)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    for part in parts:
        assert part in result.err
