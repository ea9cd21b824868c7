"""`python scripts/export.py`: one file that gives what the run gives, without the project."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules import Digits
from runs import Run
from runs import export as exporting
from runs.errors import UserError
from tests.conftest import CNN, ROOT, SMALL, Command

ONE = ["--trainer.max_epochs=1", "--monitor.every_n_steps=0", "--doctor.enabled=false"]
SUFFIXES = pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
Network = Callable[[Tensor], Tensor]


def read(path: Path) -> tuple[Network, dict[str, Any]]:
    """A file as a stranger reads it, and what is in it about it."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path.read_bytes())
        (about,) = (entry.value for entry in onnx.load(path).metadata_props if entry.key == "about")
        return lambda x: torch.from_numpy(session.run(None, {"inputs": x.numpy()})[0]), json.loads(about)
    files = {"about.json": ""}
    with path.open("rb") as file:
        return torch.export.load(file, extra_files=files).module(), json.loads(files["about.json"])


def exported(command: Command, run: str | Path, suffix: str) -> tuple[Network, dict[str, Any]]:
    done = command("export", run, "--out", f"my network{suffix}")
    assert (done.status, done.err) == (0, "")
    assert f"my network{suffix}, outputs differ from the module's by at most" in done.out
    assert [path.name for path in Path().glob("*my network*")] == [f"my network{suffix}"], "and no part of another"
    return read(Path(f"my network{suffix}"))


def predictions(command: Command, run: str | Path, *files: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(command("predict", run, *files).out)))


@SUFFIXES
def test_a_file_gives_what_predict_gives(command: Command, trained: Run, suffix: str) -> None:
    network, about = exported(command, trained.folder, suffix)
    classes = [str(digit) for digit in range(10)]
    assert about == {
        "inputs": {"dtype": "uint8", "shape": ["samples", 1, 8, 8], "fit": "stretch"},
        "outputs": {"dtype": "float32", "shape": ["samples", 10], "columns": classes},
        "method": "predict_step",
    }
    images = Digits().load_test()[0][:7]
    for i, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(f"{i}.png")
    rows = predictions(command, trained.folder, *(f"{i}.png" for i in range(7)))
    expected = [[float(row[name]) for name in classes] for row in rows]
    np.testing.assert_allclose(network(images).numpy(), expected, atol=2e-6)
    assert network(images[:1]).shape == (1, 10)


def test_what_the_docs_show_reads_a_file_without_the_project(command: Command, trained: Run) -> None:
    for name in ("model.pt2", "cnn.onnx"):
        assert command("export", trained.folder, "--out", name).status == 0
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "export.md").read_text(), re.M | re.S)
    assert len(blocks) == 2
    own = "import sys\nprint({'lightning', 'runs', 'modules', 'datamodules'} & set(sys.modules))"
    line = [sys.executable, "-c", "\n".join([*blocks, own])]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)
    first, second, imported = done.stdout.splitlines()
    assert first == second
    assert first in "0123456789"
    assert imported == "set()"


def test_a_run_without_a_name_for_the_file_has_it_in_its_folder(command: Command) -> None:
    assert command("fit", *SMALL, *ONE).status == 0
    assert command("export", "cnn").status == 0
    path = Path("lightning_logs/cnn/version_0/model.pt2")
    kept = path.read_bytes()
    again = command("export", "cnn")
    assert again.err == f"error: --out: {path} exists already; give another name, or --overwrite\n"
    assert path.read_bytes() == kept
    assert command("export", "cnn", "--overwrite", "--ckpt=last").status == 0


@pytest.fixture
def houses() -> pd.DataFrame:
    random = np.random.default_rng(0)
    found = pd.DataFrame({"size": random.normal(100, 30, 200), "city": random.choice(["Rome", "Bern"], 200)})
    found["price"] = 3e3 * found["size"] + 5e4 * (found["city"] == "Rome")
    found["large"] = found["size"] > 100
    found["in Rome"] = found["city"] == "Rome"
    found.loc[::20, "size"] = None
    found.to_csv("houses.csv", index=False)
    return found


NUMBERS = ["--data=datamodules.TableRegression", "--data.target=price", "--model.loss=gaussian_nll"]
CLASSES = ["--data=datamodules.TableClassification", "--data.target=large"]
LABELS = ["--data=datamodules.TableMultiLabel", "--model=modules.MultiLabelClassifier"]
LABELS += ['--data.target=["large","in Rome"]']


@pytest.mark.parametrize(
    ("recipe", "keys", "suffix"),
    [
        pytest.param("mlp", NUMBERS, ".pt2", id="numbers"),
        pytest.param("mlp", NUMBERS, ".onnx", id="numbers in ONNX"),
        pytest.param("mlp_classes", CLASSES, ".onnx", id="classes"),
        pytest.param("mlp_classes", LABELS, ".pt2", id="labels"),
    ],
)
def test_rows_of_a_file_are_what_an_exported_table_takes(
    command: Command, houses: pd.DataFrame, recipe: str, keys: list[str], suffix: str
) -> None:
    drop = [name for name in ("price", "large", "in Rome") if name not in " ".join(keys)]
    args = ["--config", ROOT / "configs" / f"{recipe}.yaml", *keys, "--data.path=houses.csv"]
    assert command("fit", *args, f"--data.drop={json.dumps(drop)}", *ONE).status == 0
    Path("houses.csv").rename("elsewhere.csv")  # what was learnt of it is in the checkpoint
    network, about = exported(command, recipe, suffix)
    kinds = about["inputs"]["columns"][1]["kinds"]
    assert about["inputs"]["columns"] == [{"name": "size"}, {"name": "city", "kinds": ["Bern", "Rome"]}]
    houses.loc[3, "city"] = "Oslo"
    houses[["city", "size"]].to_csv("new.csv", index=False)
    codes = [kinds.index(city) if city in kinds else -1 for city in houses["city"]]
    outputs = network(torch.tensor(np.stack((houses["size"], codes), 1)))
    rows = predictions(command, recipe, "new.csv")
    expected = [[float(row[name]) for name in about["outputs"]["columns"]] for row in rows]
    np.testing.assert_allclose(outputs.numpy(), expected, rtol=1e-5, atol=2e-6)


def test_columns_by_rank_are_for_torch_alone(command: Command) -> None:
    args = ["--config", ROOT / "configs" / "mlp.yaml", "--data.scale=quantile"]
    assert command("fit", *args, *ONE).status == 0
    network, about = exported(command, "mlp", ".pt2")
    assert network(torch.full((4, len(about["inputs"]["columns"])), np.nan, dtype=torch.float64)).shape == (4, 1)
    assert command("export", "mlp", "--out=a.onnx").err == (
        "error: --out: ONNX can't tell what this network does (it has no aten.searchsorted); .pt2 can\n"
    )


@SUFFIXES
def test_a_language_model_takes_any_number_of_tokens(command: Command, suffix: str) -> None:
    Path("text.txt").write_text("to be or not to be, that is the question; " * 100)
    args = ["--config", ROOT / "configs" / "gpt.yaml", "--model.net.depth=1", "--model.net.width=32"]
    args += ["--data=datamodules.Text", "--data.path=text.txt", "--data.context=16", "--trainer.max_steps=5"]
    assert command("fit", *args, "--trainer.val_check_interval=5", *ONE[1:]).status == 0
    network, about = exported(command, "gpt", suffix)
    assert about["inputs"] == {"dtype": "int64", "shape": ["samples", "tokens"], "tokenizer": "bytes", "context": 16}
    assert about["outputs"] == {"dtype": "float32", "shape": ["samples", "tokens", 256], "columns": None}
    module, _ = Run("gpt").load()
    for shape in ((1, 2), (3, 7), (5, 16)):
        tokens = torch.randint(256, shape)
        with torch.no_grad():
            torch.testing.assert_close(network(tokens), module(tokens), rtol=1e-4, atol=1e-5)


OWN = '''
"""Networks and modules as people write them."""
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn

class Linear(nn.Module):
    def __init__(self, in_channels, image_size, num_classes):
        super().__init__()
        self.layer = nn.Linear(in_channels * image_size[0] * image_size[1], num_classes)
    def forward(self, x):
        return self.layer(x.flatten(1))

class ByLength(Linear):
    def forward(self, x):
        return self.layer(x.view(len(x), -1)) + torch.zeros(len(x), 1)

class Branch(Linear):
    def forward(self, x):
        x = super().forward(x)
        return x if x.sum() > 0 else -x

class Unpacks(BoringModel):
    def predict_step(self, batch, batch_idx):
        x, y = batch
        return self(x)

class Pair(BoringModel):
    def forward(self, x):
        return super().forward(x), 1
    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()
    validation_step = test_step = training_step
'''


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a module of those networks."""
    name = f"own_{abs(hash(request.node.name))}"
    Path(f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(Path.cwd())
    return name


@SUFFIXES
def test_a_network_that_asks_for_the_length_of_a_batch(command: Command, own: str, suffix: str) -> None:
    assert command("fit", "--config", CNN, "--model.net", f"{own}.ByLength", *ONE).status == 0
    network, _ = exported(command, "cnn", suffix)
    images = Digits().load_test()[0]
    for count in (1, 2, 360):
        assert network(images[:count]).shape == (count, 10)


def test_what_can_not_be_exported_is_told_with_its_place(command: Command, own: str) -> None:
    assert command("fit", "--config", CNN, "--model.net", f"{own}.Branch", *ONE).status == 0
    done = command("export", "cnn", "--out=a.pt2")
    line = OWN.splitlines().index("        return x if x.sum() > 0 else -x") + 1
    assert done.status == 2
    assert done.err.startswith("error: Classifier can't be exported: Data-dependent branching (")
    assert done.err.endswith(f"{own}.py, line {line})\n")
    assert not list(Path().glob("*.pt2"))


BORING = "lightning.pytorch.demos.boring_classes"


def test_modules_and_data_of_others(command: Command, own: str) -> None:
    data = ["--data", f"{BORING}.BoringDataModule", "--trainer.limit_train_batches=1", "--trainer.max_epochs=1"]
    for name, model in (("plain", f"{BORING}.BoringModel"), ("unpacks", f"{own}.Unpacks"), ("pair", f"{own}.Pair")):
        assert command("fit", "--model", model, *data, "--name", name, "--optimizer=SGD").status == 0
    network, about = exported(command, "plain", ".onnx")
    module, _ = Run("plain").load()
    x = torch.randn(5, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(x), module(x))
    assert (about["inputs"], about["method"]) == ({"dtype": "float32", "shape": ["samples", 32]}, "predict_step")
    Path("my network.onnx").unlink()
    assert exported(command, "unpacks", ".pt2")[1]["method"] == "forward"
    assert command("export", "pair", "--out=b.pt2").err == (
        "error: Pair.predict_step gives a tuple; what is exported has to give a tensor\n"
    )
    assert command("fit", "--model", f"{BORING}.BoringModel", "--name=alone", *data[2:]).status == 0
    assert "its config has no data" in command("export", "alone", "--out=c.pt2").err


def test_mistakes_are_one_line(command: Command, trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def error(*args: str) -> str:
        done = command("export", trained.folder, *args)
        assert done.status == 2
        return done.err

    assert error("--out=a.onx") == "error: --out: a.onx ends in neither .pt2 nor .onnx; did you mean '.onnx'?\n"
    assert error("--out=nowhere/a.pt2") == "error: --out: no such folder: nowhere\n"
    assert error("--ot=a.pt2") == "error: --ot=a.pt2: no such option; did you mean '--out'?\n"
    found = exporting.importlib.util.find_spec  # type: ignore[attr-defined]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if "onnx" in name else found(name))
    assert error("--out=a.onnx") == (
        "error: --out: .onnx needs onnx and onnxscript and onnxruntime: pip install -e '.[export]'\n"
    )


def test_a_file_that_gives_other_numbers_is_not_kept(
    command: Command, trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = exporting._write_pt2

    def off(*args: Any) -> Network:
        network = write(*args)
        return lambda x: network(x) + 0.01

    monkeypatch.setattr(exporting, "_write_pt2", off)
    Path("a.pt2").write_text("of before")
    done = command("export", trained.folder, "--out=a.pt2", "--overwrite")
    assert done.status == 2
    assert done.err.startswith("error: the exported network gives other outputs than the module: they differ by 0.0")
    assert Path("a.pt2").read_text() == "of before"
    assert [path.name for path in Path().iterdir()] == ["a.pt2"]


@pytest.mark.parametrize(("value", "message"), [("nan", "the module gives NaN"), ("inf", "")])
def test_outputs_that_are_no_numbers(trained: Run, value: str, message: str, tmp_path: Path) -> None:
    module, data = trained.load()
    assert data
    module.predict_step = lambda batch, batch_idx: module(batch).index_fill(1, torch.tensor(3), float(value))
    out = tmp_path / "a.pt2"
    if message:
        with pytest.raises(UserError, match=f"^{message}"):
            exporting.write_export(module, data, out)
        assert not list(tmp_path.iterdir())
    else:
        assert exporting.write_export(module, data, out)["largest_difference"] == 0
        assert all(parameter.requires_grad for parameter in module.parameters()), "as before"


def test_more_weights_than_onnx_holds(command: Command, trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "LARGEST_ONNX", 1000)
    done = command("export", trained.folder, "--out=a.onnx")
    assert done.err == "error: --out: 0.0 GB of weights, and an ONNX file holds 2 GB; .pt2 holds any number\n"
