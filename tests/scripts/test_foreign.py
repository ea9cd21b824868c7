"""Somebody else's modules, datamodules and networks work by class path, with no change."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import CNN, Command

BORING = "lightning.pytorch.demos.boring_classes"
RUN = Path("lightning_logs/run/version_0")
CLASSIFIER = ["--model", "modules.Classifier", "--optimizer", "Adam"]
QUICK = ["--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "1"]


@pytest.mark.parametrize("data", [[], ["--data", f"{BORING}.BoringDataModule"]])
def test_lightnings_boring_model_trains(command: Command, data: list[str]) -> None:
    result = command("fit", "--model", f"{BORING}.BoringModel", *data, *QUICK)
    assert (result.status, result.err) == (0, "")
    assert re.search(r"stopped +trainer.max_epochs 1 reached", result.out)
    assert torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 64
    assert "best epoch" not in result.out, "nothing is monitored"


def test_the_config_of_a_foreign_run_runs_again(command: Command) -> None:
    command("fit", "--model", f"{BORING}.BoringModel", *QUICK)
    result = command("fit", "--config", RUN / "config.yaml")
    assert (result.status, result.err) == (0, "")
    first, again = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in (RUN, RUN.with_name("version_1"))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_module_keeps_its_own_optimizer_and_metrics(command: Command, foreign: str) -> None:
    model = ["--model", f"{foreign}.Regression", "--data", f"{BORING}.BoringDataModule"]
    result = command("fit", *model, *QUICK)
    assert (result.status, result.err) == (0, "")
    state = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == 0.125
    assert re.search(r"^epoch   0 .*valid_mse \d", result.out, re.MULTILINE)
    summary = json.loads((RUN / "summary.json").read_text())
    assert set(summary["test"]) == {"test_mse"}
    assert {"mse", "valid_mse"} <= set(EventAccumulator(str(RUN)).Reload().Tags()["scalars"])


def test_a_module_may_name_a_word_as_this_project_names_a_network(command: Command, foreign: str) -> None:
    model = ["--model", f"{foreign}.Named", "--data", f"{BORING}.BoringDataModule"]
    result = command("fit", *model, "--model.net", "large", *QUICK)
    assert (result.status, result.err) == (0, "")
    assert yaml.safe_load((RUN / "config.yaml").read_text())["model"]["init_args"] == {"net": "large"}


def test_a_foreign_metric_can_be_monitored(command: Command, foreign: str) -> None:
    model = ["--model", f"{foreign}.Regression", "--data", f"{BORING}.BoringDataModule"]
    monitors = ["--checkpoint.monitor", "valid_mse", "--early_stopping.monitor", "valid_mse"]
    result = command("fit", *model, *monitors, "--trainer.max_epochs", "2")
    assert (result.status, result.err) == (0, "")
    losses = [float(loss) for loss in re.findall(r"^epoch .*valid_mse (\S+)", result.out, re.MULTILINE)]
    assert json.loads((RUN / "summary.json").read_text())["best_epoch"] == losses.index(min(losses))


def test_a_config_takes_the_place_of_a_modules_own_optimizer(command: Command, foreign: str) -> None:
    model = ["--model", f"{foreign}.Regression", "--data", f"{BORING}.BoringDataModule"]
    assert command("fit", *model, *QUICK, "--optimizer", "SGD", "--optimizer.lr", "0.25").status == 0
    state = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == 0.25


def test_a_fact_that_the_data_do_not_tell_is_named_and_can_be_set(command: Command, foreign: str) -> None:
    line = ["fit", *CLASSIFIER, "--model.net", f"{foreign}.FixedNet", "--data", f"{foreign}.Blobs", *QUICK]
    missing = command(*line)
    assert missing.status == 2
    assert missing.err == (
        "error: model.num_classes: Blobs has no `num_classes` to fill it with; set it in the config\n"
    )
    result = command(*line, "--model.num_classes", "10")
    assert (result.status, result.err) == (0, "")
    assert "scripts/predict.py" not in result.out, "these data can't read files"


@pytest.mark.parametrize("net", ["Net", "FixedNet"])
def test_a_network_asks_for_as_much_of_the_data_as_it_likes(command: Command, foreign: str, net: str) -> None:
    line = [*CLASSIFIER, "--model.net", f"{foreign}.{net}", "--data", "datamodules.Digits"]
    result = command("fit", *line, *QUICK)
    assert (result.status, result.err) == (0, "")
    assert f"Classifier with {net} " in result.out


def test_a_network_of_torch_is_named_by_its_class_path(command: Command, foreign: str) -> None:
    net = ["--model.net", "torch.nn.Linear", "--model.net.in_features", "64", "--model.net.out_features", "10"]
    data = ["--data", f"{foreign}.Vectors", "--model.num_classes", "10"]
    result = command("fit", *CLASSIFIER, *net, *data, *QUICK)
    assert (result.status, result.err) == (0, "")
    assert "Classifier with Linear (650 parameters) on Vectors" in result.out  # 64 x 10 + 10


def test_a_network_without_weights_can_not_be_trained(command: Command) -> None:
    result = command("fit", *CLASSIFIER, "--model.net", "torch.nn.Flatten", "--data", "datamodules.Digits", *QUICK)
    assert result.status == 2
    assert result.err.startswith("error: optimizer: torch.optim.Adam refuses its arguments: ")
    assert "empty parameter list" in result.err


def test_the_network_of_a_recipe_is_replaced_on_the_command_line(command: Command, foreign: str) -> None:
    result = command("fit", "--config", CNN, "--model.net", f"{foreign}.Net", *QUICK)
    assert (result.status, result.err) == (0, "")
    assert "Classifier with Net (650 parameters) on Digits" in result.out  # 64 x 10 + 10


def test_data_that_can_not_read_files_say_so(command: Command, foreign: str) -> None:
    net = ["--model.net", f"{foreign}.FixedNet", "--model.num_classes", "10"]
    command("fit", *CLASSIFIER, *net, "--data", f"{foreign}.Blobs", *QUICK)
    result = command("predict", "run", "x.png")
    assert result.status == 2
    assert result.err.startswith("error: run: its data, Blobs, can't read files")
