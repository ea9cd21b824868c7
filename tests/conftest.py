"""What all tests share: the command line called in this process, tiny data, a small trained run."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests share the cores
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the same on machines with a GPU

import gzip
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Trainer

from runs import Run
from scripts import compare, doctor, export, fit, predict, report, test, validate
from scripts.main import main
from tests.pictures import go_without

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    "fit": fit.fit,
    "validate": validate.validate,
    "test": test.test,
    "predict": predict.predict,
    "export": export.export,
    "report": report.report,
    "compare": compare.compare,
    "doctor": doctor.doctor,
}
CNN = str(ROOT / "configs" / "cnn.yaml")
# a run of one second: a small network, two epochs
SMALL = ["--config", CNN, "--model.net.width", "8", "--model.net.depth", "1", "--trainer.max_epochs", "2"]


@dataclass
class Result:
    """What a command left behind."""

    status: int
    out: str
    err: str


Command = Callable[..., Result]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest ones first, so that two workers end together."""
    rooms = ("test_readme.py", "scripts")
    items.sort(key=lambda item: next((i for i, room in enumerate(rooms) if room in item.path.parts), len(rooms)))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Runs that are trained once for many tests have pictures, and so has what is marked `pictures`."""
    if not request.node.get_closest_marker("pictures"):
        go_without(monkeypatch.setattr)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """`command("fit", "--config", …)` runs a script in this process and gives its status and output."""

    def run(name: str, *args: str | Path) -> Result:
        capfd.readouterr()
        try:
            status = main(COMMANDS[name], [str(arg) for arg in args])
        except SystemExit as stop:  # --help and --print_config leave this way
            status = int(stop.code or 0)
        captured = capfd.readouterr()
        return Result(status, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run that tests may read and must not change."""
    folder = tmp_path_factory.mktemp("trained")
    here = Path.cwd()
    os.chdir(folder)
    try:
        assert main(fit.fit, SMALL) == 0
        return Run(folder / "lightning_logs" / "cnn" / "version_0")
    finally:
        os.chdir(here)


def quick_trainer(**options: Any) -> Trainer:
    """A trainer of one epoch that writes and prints nothing; `options` say otherwise."""
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**{"accelerator": "cpu", "max_epochs": 1, **quiet, **options})


@dataclass
class Loader:
    """Ready batches, epoch after epoch. (Lightning takes a list for several loaders.)"""

    batches: Sequence[Any]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an array of unsigned bytes in the IDX format, gzipped when the name ends in `.gz`."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    data = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def make_idx_set(
    folder: Path,
    classes: Sequence[int] = (0, 1, 2),
    size: int = 12,
    train: int = 60,
    suffix: str = ".gz",
    prefix: str = "",
) -> Path:
    """Four small IDX files: the class of an image shows in the brightness of one of its columns."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", 30)):
        labels = np.resize(np.array(classes), count)
        images = generator.integers(0, 60, (count, size, size))
        for i, label in enumerate(labels):
            images[i, :, list(classes).index(label)] = 250
        write_idx(folder / f"{prefix}{part}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{prefix}{part}-labels-idx1-ubyte{suffix}", labels)
    return folder
