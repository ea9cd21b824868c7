"""What the tests of the scripts share: one more run, and a module of somebody else."""

import os
from pathlib import Path

import pytest

from runs import Run
from scripts import fit
from scripts.main import main
from tests.conftest import SMALL

FOREIGN = '''
import lightning
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Regression(lightning.LightningModule):
    """Knows its optimizer, and logs other names than this project does."""

    def __init__(self, outputs: int = 2):
        super().__init__()
        self.layer = nn.Linear(32, outputs)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).pow(2).mean()
        self.log("mse", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("valid_mse", self.layer(batch).pow(2).mean())

    def test_step(self, batch, batch_idx):
        self.log("test_mse", self.layer(batch).pow(2).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.125)


class Named(Regression):
    """Its network is a word, where this project's is a class."""

    def __init__(self, net: str = "small"):
        super().__init__({"small": 2, "large": 20}[net])


class Net(nn.Module):
    """Asks for the number of classes and nothing else."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    def forward(self, x):
        return self.layers(x)


class FixedNet(nn.Sequential):
    """Asks for nothing."""

    def __init__(self, hidden: int = 8):
        super().__init__(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


class Blobs(lightning.LightningDataModule):
    """Says nothing of its classes."""

    def train_dataloader(self):
        inputs = torch.arange(40 * 64.0).view(40, 1, 8, 8).sin()
        return DataLoader(TensorDataset(inputs, torch.arange(40) % 10), batch_size=4)

    val_dataloader = test_dataloader = train_dataloader


class Vectors(lightning.LightningDataModule):
    """No images."""

    def train_dataloader(self):
        inputs = torch.arange(40 * 64.0).view(40, 64).sin()
        return DataLoader(TensorDataset(inputs, torch.arange(40) % 10), batch_size=4)

    val_dataloader = test_dataloader = train_dataloader


class BreaksInTraining(BoringModel):
    def training_step(self, batch, batch_idx):
        return {}["lost"]


class RaisesValueErrorInTraining(BoringModel):
    def training_step(self, batch, batch_idx):
        raise ValueError("my check: a wrong batch")


class BreaksWhenMade(BoringModel):
    def __init__(self, size: int = 3):
        super().__init__()
        self.size = [1, 2][size]
'''


@pytest.fixture(scope="session")
def early_best(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run whose best epoch is the first one of two; to read, not to change."""
    folder = tmp_path_factory.mktemp("early_best")
    here = Path.cwd()
    os.chdir(folder)
    try:
        # the loss falls from epoch to epoch: by this mode the first is the best
        assert main(fit.fit, [*SMALL, "--checkpoint.mode", "max"]) == 0
        return Run(folder / "lightning_logs" / "cnn" / "version_0")
    finally:
        os.chdir(here)


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a Python module with somebody else's classes."""
    folder = tmp_path.parent / f"{tmp_path.name}_foreign"
    folder.mkdir()
    (folder / "foreign_project.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(folder)
    return "foreign_project"
