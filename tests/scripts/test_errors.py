"""Every mistake of a user ends in one line that names it, before any training."""

import gzip
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from runs import Run
from runs.errors import UserError
from tests.conftest import CNN, SMALL, Command, Result, make_idx_set, write_idx

BORING = "lightning.pytorch.demos.boring_classes"


def assert_told(result: Result, *parts: str) -> None:
    """One line on stderr with all `parts`, exit status 2, and nothing trained."""
    assert result.status == 2, result.out + result.err
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1, result.err
    for part in parts:
        assert part in result.err
    assert "epoch   0" not in result.out


# ---- keys and values on the command line


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        # unknown keys, at each level
        (["--modell", "x"], ["modell", "'model'"]),
        (["--trainer.max_epoch", "3"], ["trainer.max_epoch:", "did you mean 'trainer.max_epochs'?"]),
        (["--model.net.dropuot", "0.3"], ["model.net.dropuot", "'model.net.dropout'"]),
        (["--model.label_smothing", "0.1"], ["model.label_smothing", "'model.label_smoothing'"]),
        (["--data.augment.rotat", "3"], ["data.augment.rotat", "'data.augment.rotate'"]),
        (["--data.batchsize", "3"], ["data.batchsize", "'data.batch_size'"]),
        (["--early_stopping.patiense", "3"], ["early_stopping.patiense", "'early_stopping.patience'"]),
        (["--optimizer.weight_decy", "3"], ["optimizer.weight_decy", "'optimizer.weight_decay'"]),
        (["--lr", "0.1"], ["lr", "did you mean 'optimizer.lr'?"]),
        (["--dropout", "0.1"], ["dropout", "did you mean 'model.net.dropout'?"]),
        (["--batch_size", "8"], ["batch_size", "did you mean 'data.batch_size'?"]),
        (["extra"], ["'extra'", "--key value"]),
        # wrong types
        (["--trainer.max_epochs", "three"], ["trainer.max_epochs", "'three'", "a whole number"]),
        (["--data.batch_size", "1.5"], ["data.batch_size", "'1.5'", "a whole number"]),
        (["--optimizer.lr", "fast"], ["optimizer.lr", "'fast'", "a number"]),
        (["--model.channels_last", "maybe"], ["model.channels_last", "'maybe'", "true or false"]),
        (["--model.net.norm", "bach"], ["model.net.norm", "'bach'", "layer", "did you mean 'batch'?"]),
        (["--trainer.precision", "bf16mixed"], ["trainer.precision", "did you mean 'bf16-mixed'?"]),
        pytest.param(["--data.batch_size"], ["data.batch_size", "a value is missing"]),
        # class paths
        (["--model", "modules.Clasifier"], ["model:", "'Clasifier'", "did you mean 'modules.Classifier'?"]),
        (["--model", "Clasifier"], ["model:", "'Clasifier'", "'modules.Classifier'"]),
        (["--model", "module.Classifier"], ["model:", "'module'", "did you mean 'modules'?"]),
        (["--model.net", "modules.nets.CCN"], ["model.net:", "'modules.nets.CNN'"]),
        (["--data", "datamodules.Digitz"], ["data:", "did you mean 'datamodules.Digits'?"]),
        (["--optimizer", "torch.optim.AdamWW"], ["optimizer:", "'torch.optim.AdamW'"]),
        (["--optimizer", "AdamWW"], ["optimizer:", "'AdamWW'", "'torch.optim.AdamW'"]),
        (["--model", "datamodules.Digits"], ["model:", "datamodules.Digits is not a LightningModule"]),
        (["--data", "modules.Classifier"], ["data:", "modules.Classifier is not a LightningDataModule"]),
        # optimizers and schedules
        (["--optimizer.momentum", "0.9"], ["optimizer.momentum", "torch.optim.AdamW", "weight_decay"]),
        (["--lr_scheduler.gamma", "0.9"], ["lr_scheduler.gamma", "OneCycleLR", "max_lr"]),
        (["--lr_scheduler", "StepLR"], ["lr_scheduler.step_size", "StepLR"]),
        (["--optimizer.lr", "-1"], ["optimizer", "-1"]),
        (["--optimizer.betas", "[2, 3]"], ["optimizer", "torch.optim.AdamW", "2"]),
        # numbers that can't be
        (["--data.batch_size", "-3"], ["data.batch_size: -3", "below 0"]),
        (["--data.batch_size", "5000"], ["data.batch_size: 5000", "1 to 1221"]),  # 1797 - 360, less 0.15 of it
        (["--data.val_fraction", "0"], ["data.val_fraction: 0", "(0, 1)"]),
        (["--data.val_fraction", "1"], ["data.val_fraction: 1", "(0, 1)"]),
        (["--data.val_fraction", "1.5"], ["data.val_fraction: 1.5", "(0, 1)"]),
        (["--data.val_fraction", "-0.1"], ["data.val_fraction: -0.1", "(0, 1)"]),
        (["--data.val_fraction", "0.0001"], ["data.val_fraction: 0.0001", "10 classes"]),
        (["--data.augment.rotate", "300"], ["data.augment.rotate: 300", "[0, 180]"]),
        (["--model.net.width", "0"], ["model.net", "width 0", "at least 1"]),
        (["--model.net.dropout", "1.5"], ["model.net.dropout: 1.5", "[0, 1)"]),
        (["--model.label_smoothing", "2"], ["model.label_smoothing: 2", "[0, 1)"]),
        (["--trainer.max_epochs", "0"], ["trainer.max_epochs: 0", "from 1"]),
        (["--trainer.max_epochs", "-1"], ["trainer.max_epochs: -1", "from 1"]),
        (["--trainer.max_steps", "0"], ["trainer.max_steps: 0", "from 1"]),
        (["--checkpoint.save_top_k", "-2"], ["save_top_k", "-2", "-1"]),
        pytest.param(["--early_stopping.patience", "-1"], ["early_stopping.patience", "-1"]),
        pytest.param(["--seed_everything", "-1"], ["seed_everything", "-1", "4294967295"]),
        pytest.param(["--trainer.val_check_interval", "100"], ["val_check_interval", "100", "19"]),
        # the machine
        (["--trainer.accelerator", "gpuu"], ["trainer.accelerator", "'gpuu'", "did you mean 'gpu'?"]),
        (["--trainer.accelerator", "gpu"], ["trainer.accelerator", "'gpu'", "no GPU", "cpu"]),
        (["--trainer.strategy", "dpp"], ["trainer.strategy", "'dpp'", "did you mean 'ddp'?"]),
        (["--trainer.devices", "1000"], ["trainer.devices", "1000", "auto"]),
        (["--trainer.devices", "0"], ["trainer.devices", "0", "auto"]),
        # metrics that nobody logs
        (["--early_stopping.monitor", "val/los"], ["early_stopping.monitor", "'val/los'", "did you mean 'val/loss'?"]),
        (["--checkpoint.monitor", "val/f1"], ["checkpoint.monitor", "'val/f1'", "val/acc, val/loss"]),
        (["--early_stopping.monitor", "train/los"], ["early_stopping.monitor", "'train/los'", "'train/loss'"]),
        (["--checkpoint.monitor", "train/los"], ["checkpoint.monitor", "'train/los'", "'train/loss'"]),
        (["--early_stopping.monitor", "loss"], ["early_stopping.monitor", "'loss'"]),
        (["--lr_scheduler", "ReduceLROnPlateau", "--lr_scheduler.monitor", "val/lss"],
         ["lr_scheduler.monitor", "'val/lss'", "'val/loss'"]),
        (["--early_stopping.mode", "mim"], ["early_stopping.mode", "'mim'", "did you mean 'min'?"]),
        (["--checkpoint.mode", "mxa"], ["checkpoint.mode", "'mxa'", "'max'"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0][:2] == "--" else "",
)  # fmt: skip
def test_a_wrong_key_or_value_is_one_line(command: Command, args: list[str], parts: list[str]) -> None:
    assert_told(command("fit", *SMALL, *args), *parts)
    assert not list(Path().glob("lightning_logs/*/*/checkpoints"))


@pytest.mark.parametrize("monitor", [["--early_stopping.monitor", "train/xyz"], ["--checkpoint.monitor", "train/xyz"]])
def test_a_metric_of_training_that_nobody_logs_is_one_line_after_an_epoch(command: Command, monitor: list[str]) -> None:
    result = command("fit", *SMALL, *monitor)
    assert result.status == 2
    assert result.err.startswith(f"error: {monitor[0][2:]}: ")
    assert result.err.count("\n") == 1


def test_a_metric_that_nobody_logs_is_one_line_without_the_sanity_check_too(command: Command) -> None:
    result = command("fit", *SMALL, "--trainer.num_sanity_val_steps", "0", "--early_stopping.monitor", "val/los")
    assert result.status == 2
    assert result.err.startswith("error: early_stopping.monitor: ")


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        ([], ["missing model", "--config configs/cnn.yaml"]),
        (["--data", "datamodules.Digits"], ["missing model"]),
        (["--model", "modules.Classifier"], ["model.net", "modules.Classifier"]),
        (["--model", f"{BORING}.BoringModel", "--data", "datamodules.MNIST", "--data.data_dir", "x",
          "--data.mirrors", "[]"], ["data.data_dir", "train-images-idx3-ubyte.gz", "configs/cnn.yaml"]),
        (["--model", "modules.Classifier", "--model.net", "modules.nets.MLP", "--data", "datamodules.Digits"],
         ["optimizer"]),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(command: Command, args: list[str], parts: list[str]) -> None:
    assert_told(command("fit", *args, "--trainer.max_epochs", "1"), *parts)


# ---- config files


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("trainer:\n  max_epochs: [1\n  devices: 1\n", ["bad.yaml, line 3", "broken YAML"]),
        ("trainer:\n\tmax_epochs: 1\n", ["bad.yaml, line 2", "broken YAML"]),
        ("trainer:\n  max_epochs: 2\n  devices: 1\n  max_epochs: 3\n", ["bad.yaml, line 4", "trainer.max_epochs"]),
        ("seed_everything: 1\n# …\nseed_everything: 2\n", ["bad.yaml, line 3", "seed_everything", "line 1"]),
        ("", ["bad.yaml", "empty"]),
        ("# only a comment\n", ["bad.yaml", "empty"]),
        ("- trainer\n- model\n", ["bad.yaml", "mapping"]),
        ("just words\n", ["bad.yaml", "mapping"]),
        ("trainer: 3\n", ["bad.yaml", "line 1", "trainer"]),
        ("trainer:\n  max_epoch: 2\n", ["trainer.max_epoch:", "'trainer.max_epochs'"]),
        ("trianer:\n  max_epochs: 2\n", ["trianer", "'trainer"]),
        ("model: {init_args: {net: {init_args: {widht: 3}}}}\n", ["model.net.widht", "'model.net.width'"]),
        ("trainer:\n  devices: 1000\n", ["trainer.devices: 1000"]),
        ("data:\n  init_args:\n    batch_size: many\n", ["data.batch_size", "'many'", "a whole number"]),
        pytest.param("optimizer:\n  class_path: torch.optim.SGD\n  lr: 0.1\n", ["optimizer", "init_args"]),
    ],
)  # fmt: skip
def test_a_wrong_config_file_is_one_line(command: Command, text: str, parts: list[str]) -> None:
    Path("bad.yaml").write_text(text)
    assert_told(command("fit", *SMALL, "--config", "bad.yaml"), *parts)


def test_a_missing_config_file_is_named_with_the_nearest_one(command: Command) -> None:
    shutil.copy(CNN, "cnn.yaml")
    assert_told(command("fit", "--config", "cmn.yaml"), "no such file: cmn.yaml", "did you mean 'cnn.yaml'?")


def test_what_is_no_text_file_is_no_config(command: Command) -> None:
    Path("folder.yaml").mkdir()
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert_told(command("fit", "--config", "folder.yaml"), "folder.yaml")
    assert_told(command("fit", "--config", "binary.yaml"), "binary.yaml")


# ---- data files


def damage(folder: Path, how: str) -> None:
    images, labels = folder / "train-images-idx3-ubyte.gz", folder / "train-labels-idx1-ubyte.gz"
    if how == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif how == "a file":
        shutil.rmtree(folder)
        folder.write_text("x")
    elif how == "wrong magic":
        images.write_bytes(gzip.compress(b"\x00\x00\x0d\x03" + bytes(100)))
    elif how == "a folder in place of a file":
        images.unlink()
        images.mkdir()
    elif how == "cut":
        images.write_bytes(images.read_bytes()[:200])
    elif how == "fewer labels":
        write_idx(labels, np.zeros(10))
    elif how == "a part missing":
        (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    elif how == "other test shape":
        write_idx(folder / "t10k-images-idx3-ubyte.gz", np.zeros((30, 10, 10)))
    elif how == "unknown test label":
        write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.full(30, 7))


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ("empty", ["data.data_dir", "idx", "train-images-idx3-ubyte.gz", "configs/cnn.yaml"]),
        ("a file", ["data.data_dir", "idx is a file"]),
        ("wrong magic", ["idx/train-images-idx3-ubyte.gz", "not an IDX file"]),
        ("a folder in place of a file", ["idx/train-images-idx3-ubyte.gz"]),
        ("cut", ["idx/train-images-idx3-ubyte.gz", "damaged"]),
        ("fewer labels", ["idx/train-labels-idx1-ubyte.gz", "10 labels", "60 images"]),
        ("a part missing", ["data.data_dir", "test labels"]),
        pytest.param("other test shape", ["test images", "10x10", "12x12"]),
        pytest.param("unknown test label", ["idx/t10k-labels-idx1-ubyte.gz", "label 7"]),
    ],
)  # fmt: skip
def test_a_wrong_data_folder_is_one_line_before_any_training(command: Command, how: str, parts: list[str]) -> None:
    damage(make_idx_set(Path("idx")), how)
    options = ["--data", "datamodules.MNIST", "--data.data_dir", "idx", "--data.mirrors", "[]"]
    options += ["--data.batch_size", "16", "--trainer.log_every_n_steps", "1"]
    assert_told(command("fit", *SMALL, *options), *parts)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_data_folder_is_one_line(command: Command) -> None:
    folder = make_idx_set(Path("idx"))
    folder.chmod(0)
    try:
        result = command("fit", *SMALL, "--data", "datamodules.MNIST", "--data.data_dir", "idx")
    finally:
        folder.chmod(0o755)
    assert_told(result, "idx", "ermission")


# ---- checkpoints


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def bad_checkpoint(path: Path, how: str, good: Path) -> None:
    """Write a checkpoint that is none."""
    state = torch.load(good, weights_only=True)
    weights = state["state_dict"]
    if how == "0 bytes":
        path.touch()
    elif how == "truncated":
        path.write_bytes(good.read_bytes()[:5000])
    elif how == "a text":
        path.write_text("hello")
    elif how == "a pickle":
        path.write_bytes(pickle.dumps(Malicious(), protocol=2))
    elif how == "a malicious checkpoint":
        torch.save({**state, "extra": Malicious()}, path)
    elif how == "a state dict":
        torch.save(weights, path)
    elif how == "other shapes":
        torch.save({**state, "state_dict": {**weights, "net.head.3.weight": torch.zeros(4, 8)}}, path)
    elif how == "a weight missing":
        torch.save({**state, "state_dict": {k: v for k, v in weights.items() if k != "net.head.3.bias"}}, path)
    elif how == "a weight too many":
        torch.save({**state, "state_dict": {**weights, "net.more": torch.zeros(1)}}, path)
    elif how == "no tensors":
        torch.save({"state_dict": dict.fromkeys(weights, 3)}, path)


@pytest.mark.parametrize("script", ["test", "predict"])
@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ("missing", ["--ckpt", "bad.ckpt", "best, last"]),
        ("0 bytes", ["bad.ckpt", "0 bytes"]),
        ("truncated", ["bad.ckpt", "damaged", "5,000 bytes"]),
        ("a text", ["bad.ckpt", "no checkpoint"]),
        ("a pickle", ["bad.ckpt", "refused", "posix.mkdir"]),
        ("a malicious checkpoint", ["bad.ckpt", "refused", "posix.mkdir"]),
        ("a state dict", ["bad.ckpt", "state_dict"]),
        ("other shapes", ["bad.ckpt", "net.head.3.weight", "(4, 8)", "(10, 8)"]),
        ("a weight missing", ["bad.ckpt", "net.head.3.bias"]),
        ("a weight too many", ["bad.ckpt", "net.more"]),
        pytest.param("no tensors", ["bad.ckpt"]),
    ],
)  # fmt: skip
def test_a_wrong_checkpoint_is_one_line(
    command: Command, trained: Run, script: str, how: str, parts: list[str]
) -> None:
    bad_checkpoint(Path("bad.ckpt"), how, trained.checkpoint())
    inputs = ["x.png"] if script == "predict" else []
    assert_told(command(script, trained.folder, *inputs, "--ckpt", "bad.ckpt"), *parts)
    assert not Path("executed").exists(), "code from the file was executed"


@pytest.mark.parametrize("script", ["test", "validate"])
def test_a_wrong_run_is_one_line(command: Command, trained: Run, script: str) -> None:
    shutil.copytree(trained.folder, "lightning_logs/cnn/version_0")
    Path("folder").mkdir()
    assert_told(command(script, "cmn"), "'cmn'", "did you mean 'cnn'?")
    assert_told(command(script, "something_else"), "'something_else'", "cnn")
    assert_told(command(script, "folder"), "folder", "no config.yaml")
    assert_told(command(script), "run", f"python scripts/{script}.py RUN")
    assert_told(command(script, "cnn", "--ckpt", "lst.ckpt"), "--ckpt", "lst.ckpt")
    assert_told(command(script, "cnn", "--data.batch_siz", "3"), "data.batch_siz", "'data.batch_size'")
    assert_told(command(script, "cnn", "--model.net.width", "16"), "epoch001-step000038.ckpt", "(16, 1, 3, 3)")


# ---- somebody's own code


def test_the_traceback_of_a_bug_in_training_is_shown(command: Command, foreign: str) -> None:
    with pytest.raises(KeyError, match="lost") as caught:
        command("fit", "--model", f"{foreign}.BreaksInTraining", "--trainer.max_epochs", "1")
    assert caught.traceback[-1].name == "training_step"


def test_the_traceback_of_a_value_error_in_training_is_shown(command: Command, foreign: str) -> None:
    with pytest.raises(ValueError, match="my check: a wrong batch") as caught:
        command("fit", "--model", f"{foreign}.RaisesValueErrorInTraining", "--trainer.max_epochs", "1")
    assert caught.traceback[-1].name == "training_step"


def test_an_error_in_a_constructor_names_the_place_in_the_code(command: Command, foreign: str) -> None:
    result = command("fit", "--model", f"{foreign}.BreaksWhenMade", "--model.size", "7", "--trainer.max_epochs", "1")
    assert_told(result, "IndexError", "foreign_project.py, line ")


def test_a_syntax_error_in_ones_own_module_is_named(command: Command, foreign: str, tmp_path: Path) -> None:
    folder = tmp_path.parent / f"{tmp_path.name}_foreign"
    (folder / f"broken_{foreign}.py").write_text("x = 1\nclass Model(:\n")
    assert_told(command("fit", "--model", f"broken_{foreign}.Model"), f"broken_{foreign}.py", "line 2")


def test_an_import_that_fails_in_ones_own_module_is_named(command: Command, foreign: str, tmp_path: Path) -> None:
    folder = tmp_path.parent / f"{tmp_path.name}_foreign"
    (folder / f"importing_{foreign}.py").write_text("import nowhere_to_be_found\n")
    assert_told(command("fit", "--model", f"importing_{foreign}.Model"), "'nowhere_to_be_found'")


# ---- --debug


def test_debug_shows_the_traceback_of_a_mistake(command: Command) -> None:
    with pytest.raises(UserError, match=r"data\.batch_size: -1") as caught:
        command("fit", *SMALL, "--data.batch_size", "-1", "--debug")
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_place_that_runs_can_not_be_written_to_is_one_line(command: Command) -> None:
    Path("lightning_logs").write_text("a file")
    result = command("fit", *SMALL)
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert result.err.startswith("error: trainer.default_root_dir: can't write lightning_logs")


def test_switching_early_stopping_off_by_null_says_what_does(command: Command) -> None:
    result = command("fit", *SMALL, "--early_stopping", "null")
    assert result.status == 2
    assert "--early_stopping.patience 1000000" in result.err
