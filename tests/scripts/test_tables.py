"""Tables through the whole program: trained, resumed, tested, predicted, examined, shown."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import root_mean_squared_error

from runs import Run
from tests.conftest import ROOT, Command

MLP = str(ROOT / "configs" / "mlp.yaml")
CLASSES = str(ROOT / "configs" / "mlp_classes.yaml")
RUN = Path("lightning_logs/mlp/version_0")


@pytest.fixture
def houses() -> pd.DataFrame:
    random = np.random.default_rng(0)
    found = pd.DataFrame({"the size": random.normal(100, 30, 300), "city": random.choice(["Rome", "Bern"], 300)})
    found["price"] = 3e3 * found["the size"] + 5e4 * (found["city"] == "Rome") + random.normal(0, 5e3, 300)
    found.loc[::20, "the size"] = None
    found.to_csv("my houses.csv", index=False)
    return found


TABLE = [
    "--config",
    MLP,
    "--data",
    "datamodules.TableRegression",
    "--data.path",
    "my houses.csv",
    "--data.target=price",
]


def test_a_file_is_trained_on_tested_and_predicted(command: Command, houses: pd.DataFrame) -> None:
    done = command("fit", *TABLE, "--trainer.max_epochs", "30")
    assert (done.status, done.err) == (0, "")
    assert "predict.py lightning_logs/mlp/version_0 rows.csv" in done.out
    summary = json.loads((RUN / "summary.json").read_text())
    assert summary["test"]["test/r2"] > 0.9
    assert summary["test"]["test/rmse"] < 0.4 * houses["price"].std()
    assert json.loads((RUN / "residuals.json").read_text())["outputs"][0]["r2"] > 0.9
    assert "Residuals" in (RUN / "report.html").read_text()
    assert f"rmse {summary['test']['test/rmse']:.4g}" in command("test", "mlp").out
    # without the target, and with the columns in another order
    houses[["city", "the size"]].to_csv("new.csv", index=False)
    result = command("predict", "mlp", "new.csv", "nothing.csv")
    assert (result.status, result.err) == (1, "can't read nothing.csv: no such file\n")
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert [(row["file"], row["row"]) for row in rows] == [("new.csv", str(i + 1)) for i in range(300)]
    predicted = [float(row["price"]) for row in rows]
    assert root_mean_squared_error(houses["price"], predicted) < 0.4 * houses["price"].std()
    houses.head(2).assign(city="Oslo").to_csv("new.csv", index=False)
    result = command("predict", "mlp", "new.csv")
    assert (result.status, result.err) == (
        0,
        "warning: column 'city' has values that the training had not: 'Oslo'\n",
    )


def test_a_run_that_goes_on_has_the_same_weights(command: Command, houses: pd.DataFrame) -> None:
    whole = command("fit", *TABLE, "--trainer.max_epochs", "4", "--name", "whole")
    assert whole.status == 0
    assert command("fit", *TABLE, "--trainer.max_epochs", "2", "--name", "part").status == 0
    Path("lightning_logs/part/version_0/summary.json").unlink()  # as of a run that was cut off
    part = command("fit", *TABLE, "--trainer.max_epochs", "4", "--name", "part", "--resume")
    assert part.status == 0
    runs = [Path(f"lightning_logs/{name}/version_0") for name in ("whole", "part")]
    weights = [Run(run).load("last")[0].state_dict() for run in runs]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_each_loss_by_its_key(command: Command) -> None:
    for loss in ("mae", "huber", "gaussian_nll"):
        done = command("fit", "--config", MLP, "--model.loss", loss, "--trainer.max_epochs", "8", "--name", loss)
        assert (done.status, done.err) == (0, "")
        assert Run(loss).summary["test"]["test/r2"] > 0.15
    own = ["--model.loss", "torch.nn.SmoothL1Loss", "--model.loss.beta", "0.5"]
    assert command("fit", "--config", MLP, *own, "--trainer.max_epochs", "1").status == 0
    wrong = command("fit", "--config", MLP, "--model.loss", "mea")
    assert wrong.status == 2
    assert wrong.err.count("\n") == 1
    assert "model.loss" in wrong.err
    Path("rows.csv").write_text("age,sex,bmi,bp,s1,s2,s3,s4,s5,s6\n50,1,25,90,180,100,50,4,4.5,90\n")
    (row,) = csv.DictReader(io.StringIO(command("predict", "gaussian_nll", "rows.csv").out))
    assert 25 < float(row["progression"]) < 350
    assert 10 < float(row["progression_std"]) < 200


def test_classes_are_told_apart(command: Command) -> None:
    done = command("fit", "--config", CLASSES, "--trainer.max_epochs", "10")
    assert (done.status, done.err) == (0, "")
    run = Path("lightning_logs/mlp_classes/version_0")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test"]["test/acc"] > 0.9
    assert json.loads((run / "confusion_matrix.json").read_text())["classes"] == ["benign", "malignant"]


def test_a_table_is_examined_before_it_is_trained(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.examine_data.TIMING", 0.1)
    monkeypatch.setattr("scripts.examine_data.LOOKING", 0.5)
    result = command("doctor", "--config", MLP)
    assert (result.status, result.err) == (0, "")
    assert "one batch" in result.out


def test_a_mistake_in_a_table_is_one_line(command: Command, houses: pd.DataFrame) -> None:
    wrong = command("fit", *TABLE[:-1], "--data.target=prize")
    assert (wrong.status, wrong.out) == (2, "")
    assert wrong.err == "error: data.target: no column 'prize' in my houses.csv; did you mean 'price'?\n"
    Path("my houses.csv").write_text("a,price\n1,2\n3;4\n")
    wrong = command("fit", *TABLE)
    said = "two separators: the first line has ',', and line 3 has ';'"
    assert (wrong.status, wrong.err) == (2, f"error: my houses.csv: {said}\n")
