"""Tables with several labels through the whole program: trained, resumed, tested, predicted, examined."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from runs import Run
from tests.conftest import ROOT, Command

CONFIG, REGRESSION = str(ROOT / "configs" / "mlp_classes.yaml"), str(ROOT / "configs" / "mlp.yaml")
LABELS = ["sad", "long", "rare"]
DATA = ["--data", "datamodules.TableMultiLabel", "--data.path", "films.csv", "--data.target", '["sad","long","rare"]']
FILMS = ["--config", CONFIG, "--model", "modules.MultiLabelClassifier", *DATA]
RUN = Path("lightning_logs/mlp_classes/version_0")


@pytest.fixture
def films() -> pd.DataFrame:
    """Labels that follow from the numbers, but for some of them; one has a tenth of the rows."""
    random = np.random.default_rng(0)
    found = pd.DataFrame(random.normal(size=(600, 4)), columns=list("abcd")).round(3)
    noise = 0.2 * random.normal(size=(3, 600))
    found["sad"] = np.where(found["a"] + found["b"] + noise[0] > 0, "yes", "no")
    found["long"] = (found["c"] + noise[1] > -0.5).astype(int)
    found["rare"] = found["d"] + noise[2] > 1.3
    found.to_csv("films.csv", index=False)
    return found


def test_labels_are_learnt_tested_and_predicted(command: Command, films: pd.DataFrame) -> None:
    done = command("fit", *FILMS, "--trainer.max_epochs", "20", "--model.pos_weight", "balanced")
    assert (done.status, done.err) == (0, "")
    summary = json.loads((RUN / "summary.json").read_text())
    assert set(summary["test"]) == {"test/loss", "test/acc", "test/macro_f1", "test/exact_match"}
    assert summary["test"]["test/macro_f1"] > 0.8
    assert summary["doctor"]["findings"] == []
    assert "exact_match" in (RUN / "report.html").read_text()
    assert not (RUN / "confusion_matrix.json").exists()
    assert f"exact_match {summary['test']['test/exact_match']:.4f}" in command("test", "mlp_classes").out
    assert f"macro_f1 {summary['val']['val/macro_f1']:.4f}" in command("validate", "mlp_classes").out
    films[list("dcba")].to_csv("new.csv", index=False)  # without the labels, and in another order
    result = command("predict", "mlp_classes", "new.csv")
    assert (result.status, result.err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert list(rows[0]) == ["file", "row", "labels", *LABELS]
    known = np.stack((films["sad"] == "yes", films["long"] == 1, films["rare"]), 1)
    named = np.array([[name in row["labels"].split(";") for name in LABELS] for row in rows])
    assert (named == [[float(row[name]) > 0.5 for name in LABELS] for row in rows]).all()
    assert (named == known).mean() > 0.85


def test_a_run_that_goes_on_has_the_same_weights(command: Command, films: pd.DataFrame) -> None:
    # start values by a key are those of the beginning alone
    keys = [*FILMS, "--model.pos_weight", "balanced", "--parameters.init", "he", "--name"]
    assert command("fit", *keys, "whole", "--trainer.max_epochs", "4").status == 0
    assert command("fit", *keys, "part", "--trainer.max_epochs", "2").status == 0
    Path("lightning_logs/part/version_0/summary.json").unlink()  # as of a run that was cut off
    assert command("fit", *keys, "part", "--trainer.max_epochs", "4", "--resume").status == 0
    whole, part = (Run(name).load("last")[0].state_dict() for name in ("whole", "part"))
    assert all(torch.equal(whole[name], part[name]) for name in whole)
    assert Run("whole").summary["test"] == Run("part").summary["test"]


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        (["--optimizer.lr", "10"], ["learning_rate_too_high"]),
        (["--optimizer.weight_decay", "100"], ["over_regularised"]),
    ],
)
def test_the_doctor_knows_what_is_wrong(
    command: Command, films: pd.DataFrame, keys: list[str], found: list[str]
) -> None:
    assert command("fit", *FILMS, *keys, "--trainer.max_epochs", "6").status == 0
    doctor = json.loads((RUN / "doctor.json").read_text())
    assert [finding["name"] for finding in doctor["findings"] if not finding["follows_from"]] == found
    assert doctor["unseen"]["class_imbalance"] == "several labels for each sample"


def test_a_config_is_examined(command: Command, films: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.examine_data.TIMING", 0.1)
    monkeypatch.setattr("scripts.examine_data.LOOKING", 0.2)
    result = command("doctor", *FILMS, "--model.pos_weight", "balanced", "--parameters.init", "he")
    assert (result.status, result.err) == (0, "")
    assert "ln 2 is 0.693 without pos_weight" in result.out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--config", CONFIG, *DATA], "modules.MultiLabelClassifier"),
        (["--config", CONFIG, *DATA, "--trainer.num_sanity_val_steps", "0"], "modules.MultiLabelClassifier"),
        (["--config", REGRESSION, *DATA], "modules.MultiLabelClassifier"),
        (["--config", CONFIG, "--model", "modules.MultiLabelClassifier"], "modules.Classifier"),
        (["--config", REGRESSION, "--model", "modules.MultiLabelClassifier"], "modules.Regressor"),
    ],
)
def test_a_module_for_other_data_is_one_line(command: Command, films: pd.DataFrame, args: list[str], said: str) -> None:
    result = command("fit", *args)
    assert result.status == 2
    assert result.err.startswith("error: ")
    assert result.err.endswith(f" --model {said}\n")
    assert result.err.count("\n") == 1
    assert not Path("lightning_logs").exists() or not list(Path("lightning_logs").glob("*/*"))
