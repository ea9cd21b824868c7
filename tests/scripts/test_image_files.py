"""Images in folders through the whole program: trained, resumed, tested, predicted, examined."""

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from scripts import write_digits
from scripts.main import main
from tests.conftest import ROOT, Command
from tests.same import differences

RECIPE = ["--config", str(ROOT / "configs" / "images.yaml"), "--model.net.width=8"]
QUICK = [*RECIPE, "--trainer.limit_train_batches=6"]
RUN = Path("lightning_logs/images/version_0")


def test_the_recipe_trains_tests_and_predicts(command: Command) -> None:
    done = command("fit", *RECIPE, "--trainer.max_epochs=6", "--model.net.width=8", "--optimizer.lr=0.01")
    assert (done.status, done.err) == (0, "")
    assert "1,797 images decoded into data/cache/images-" in done.out
    summary = json.loads((RUN / "summary.json").read_text())
    assert summary["test"]["test/acc"] > 0.85
    assert 0.85 < summary["test"]["test/macro_f1"] < summary["test"]["test/acc"] + 0.02
    tested = command("test", "images")
    assert f"macro_recall {summary['test']['test/macro_recall']:.4f}" in tested.out
    assert "decoded" not in tested.out
    result = command("predict", "images", "data/digits/test")
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert len(rows) == 360
    # other images, which have no part to train on
    Path("data/digits/test").rename("data/test")
    Path("others").mkdir()
    Path("data/test").rename("others/test")
    other = command("test", "images", "--data.root=others")
    assert other.err == ""
    assert tested.out.splitlines()[0] == other.out.splitlines()[-2]
    assert command("fit", *QUICK, "--data.root=others").err == "error: data.root: others has no images to train on\n"
    right = sum(row["prediction"] == Path(row["file"]).parent.name for row in rows)
    assert right / 360 == pytest.approx(summary["test"]["test/acc"], abs=1e-6)


MIXED = [
    "--data.augment.mixup=0.2",
    "--data.augment.cutmix=1",
    "--data.augment.rand_augment=1",
    "--data.sampler=balanced",
    "--model.class_weights=balanced",
    "--model.loss=focal",
]


def test_a_run_with_all_of_it_is_stopped_and_goes_on_to_the_same_weights(command: Command) -> None:
    for name, epochs in (("whole", 2), ("cut", 1)):
        done = command("fit", *QUICK, *MIXED, f"--trainer.max_epochs={epochs}", f"--name={name}", "--lr_scheduler=null")
        assert (done.status, done.err) == (0, "")
    assert command("fit", "--resume", "lightning_logs/cut", "--trainer.max_epochs=2").status == 0
    found = [Path(f"lightning_logs/{name}/version_0") for name in ("cut", "whole")]
    assert differences(*found) == []


def test_weights_of_classes_by_list_and_a_loss_of_one_s_own(command: Command) -> None:
    weights = "--model.class_weights=[1,1,1,1,1,1,1,1,1,5]"
    assert command("fit", *QUICK, "--trainer.max_epochs=1", weights).status == 0
    result = command("fit", *QUICK, "--model.class_weights=[1,2]")
    assert (result.status, result.err) == (2, "error: model.class_weights: 2 weights for 10 classes\n")
    own = ["--model.loss=torch.nn.MultiMarginLoss", "--model.label_smoothing=0", "--trainer.max_epochs=1"]
    assert command("fit", *QUICK, *own).status == 0


@pytest.mark.filterwarnings("default:1 of 60 files")
def test_a_folder_of_one_s_own_by_its_key(command: Command) -> None:
    for name, colour in (("red things", (200, 0, 0)), ("blue", (0, 0, 180))):
        for i in range(30):
            path = Path("my photos", name, f"{i}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40 + i, 30), tuple(max(0, c - 2 * i) for c in colour)).save(path)
    Path("my photos/blue/0.jpg").write_bytes(b"")
    own = ["--data=datamodules.ImageFolder", "--data.root=my photos", "--data.size=16", "--data.channels=3"]
    own += ["--data.batch_size=8", "--data.augment.hue=0.02"]
    keys = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=5"]
    done = command("fit", *RECIPE, *own, *keys)
    assert done.status == 0
    assert done.err == "warning: 1 of 60 files of my photos can't be used: blue/0.jpg (0 bytes)\n"
    assert '"blue"' in (RUN / "confusion_matrix.json").read_text()
    assert "problems found" in command("doctor", *RECIPE, *own).out


def test_what_crashes_is_refused(command: Command) -> None:
    # the gradients of such a convolution write past a buffer of oneDNN
    result = command("fit", *QUICK, "--model.net.width=4")
    assert result.status == 2
    assert result.err.startswith(
        "error: model.channels_last: net.layer2.0.downsample.0, a 1 x 1 convolution with a str"
    )
    assert (
        command("fit", *QUICK, "--model.net.width=4", "--model.channels_last=false", "--trainer.max_steps=2").status
        == 0
    )


def test_a_folder_that_is_not_there_is_one_line(command: Command) -> None:
    result = command("fit", *RECIPE, "--data=datamodules.ImageFolder", "--data.root=photos")
    assert result.status == 2
    assert result.err == "error: data.root: no such folder: photos\n"


def test_the_digits_are_written_by_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(write_digits.write, ["some where/digits"]) == 0
    assert capsys.readouterr().out == "1,797 images: some where/digits\n"
    assert len(list(Path("some where/digits").rglob("*.png"))) == 1797
    assert main(write_digits.write, ["some where/digits"]) == 2
    assert "exists already" in capsys.readouterr().err
