"""Two processes and one come to the same numbers: metrics, loss, end; and each can go on with the other's run."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from scripts.evaluate import open_run
from tests.conftest import Command
from tests.processes import DDP, MARKS, RUN, running
from tests.same import scalars

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")

SEEN = "seen.txt"
ARGS = [  # six steps an epoch
    *("--model", "tests.scripts.test_ddp_exact.Plain", "--data", "tests.scripts.test_ddp_exact.Numbered"),
    *("--optimizer", "torch.optim.SGD", "--optimizer.lr", "0.1", "--seed_everything", "5"),
    *("--trainer.callbacks", "[{class_path: tests.processes.Marks}]", "--trainer.max_epochs", "5"),
    *("--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false"),
    *("--trainer.num_sanity_val_steps", "0"),
]
STOPPING = ["--early_stopping.patience", "2"]
ONE = ["--trainer.devices", "1", "--trainer.strategy", "auto"]


class Numbered(LightningDataModule):
    """Points, classes and the numbers of the samples; 33 of them, of which a last batch of eight would have one."""

    def __init__(self, batch_size: int = 8) -> None:
        super().__init__()
        self.batch_size = batch_size

    def _samples(self, count: int) -> TensorDataset:
        points = torch.randn(count, 4, generator=torch.Generator().manual_seed(count))
        return TensorDataset(points, points[:, :3].argmax(1), torch.arange(count))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self._samples(48), self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self._samples(33), self.batch_size)

    test_dataloader = val_dataloader


class Plain(LightningModule):
    """Nothing random in it. Its means are of multiples of 1/64, whose sums are exact in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.metrics = nn.ModuleDict()
        for stage in ("val", "test"):
            accuracy: Metric = MulticlassAccuracy(3, average="micro")
            self.metrics[stage] = nn.ModuleDict({"acc": accuracy, "loss": MeanMetric(), "numbers": MeanMetric()})

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = batch
        loss = F.cross_entropy(self.layer(x), y)
        self.log("train/loss", loss, sync_dist=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: Any) -> None:
        x, y, numbers = batch
        logits = self.layer(x)
        losses = F.cross_entropy(logits, y, reduction="none")
        metrics: Any = self.metrics[stage]
        metrics["acc"](logits, y)
        # rises by a whole number in each epoch, so that early stopping has a reason
        metrics["loss"]((losses * 64).round() / 64 + 10 * self.current_epoch * (stage == "val"))
        metrics["numbers"](numbers.float())
        for name, metric in metrics.items():
            self.log(f"{stage}/{name}", metric)
        self.log(f"{stage}/mean", losses.mean(), sync_dist=True, batch_size=len(x))
        with open(SEEN, "a", encoding="utf-8") as file:
            file.write(json.dumps([stage, self.current_epoch, self.global_rank, numbers.tolist()]) + "\n")


def curve(run: Path) -> dict[int, float]:
    points = scalars(run)["train/loss"]
    assert max(Counter(step for step, _ in points).values()) == 1, "no step is in the log twice"
    return dict(points)


def check_same_training(run: Path, other: Path, steps: int) -> None:
    """That two runs are the same but for the order in which floats were added."""
    one, two = curve(run), curve(other)
    assert list(one) == list(two)
    assert len(one) == steps
    assert list(one.values()) == pytest.approx(list(two.values()), rel=1e-4)
    weights = [torch.load(r / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for r in (run, other)]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], rtol=1e-4, atol=1e-6), name
    assert one[0] > one[steps - 1], "something was learnt"


def check_files(run: Path) -> None:
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    assert not list(run.rglob("*.part"))
    assert not list(run.rglob("last-v*"))


def last_steps(marks: list[str]) -> dict[str, int]:
    """The last step of each process."""
    found: dict[str, int] = {}
    for what, step, _, rank in map(str.split, marks):
        if what == "train":
            found[rank] = int(step)
    return found


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Where two processes have trained a run that stopped early; made once for all workers of the tests; to read."""
    root = tmp_path_factory.getbasetemp()
    folder = (root if worker_id == "master" else root.parent) / "ddp_exact"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            with running(folder, *DDP, *ARGS, *STOPPING) as fit:
                assert (fit.end(120), fit.err) == (0, "")
    return folder


def summary_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def test_two_processes_stop_early_at_the_same_step_and_write_each_file_once(pair: Path) -> None:
    run = pair / RUN
    assert last_steps((pair / MARKS).read_text().splitlines()) == {"0": 17, "1": 17}
    summary = summary_of(run)
    assert summary["stopped"] == "val/loss has not fallen for 2 evaluations"
    assert (summary["best_epoch"], summary["last_epoch"]) == (0, 2)
    check_files(run)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["epoch000-step000006.ckpt", "last.ckpt"]
    writers = {path.name.rsplit(".", 2)[1] for path in run.glob("events.out.tfevents.*")}
    assert len(writers) == 1, "one process logs"


def test_two_processes_evaluate_each_sample_once(pair: Path) -> None:
    lines = [json.loads(line) for line in (pair / SEEN).read_text().splitlines()]
    for stage, epochs in (("val", (0, 1, 2)), ("test", {epoch for stage, epoch, *_ in lines if stage == "test"})):
        for epoch in epochs:
            shares: dict[int, list[int]] = {0: [], 1: []}
            for its_stage, its_epoch, rank, numbers in lines:
                if (its_stage, its_epoch) == (stage, epoch):
                    shares[rank] += numbers
            assert sorted(shares[0] + shares[1]) == list(range(33))
            assert min(map(len, shares.values())) > 33 // 3
    summary = summary_of(pair / RUN)
    assert summary["test"]["test/numbers"] == summary["val"]["val/numbers"] == 16


def metrics_of_one_process(pair: Path, stage: str) -> dict[str, float]:
    """What one process finds at the weights of the two processes' best checkpoint."""
    cli, _ = open_run(str(pair / RUN), "best", [f"{ONE[0]}={ONE[1]}", f"{ONE[2]}={ONE[3]}"])
    {"val": cli.trainer.validate, "test": cli.trainer.test}[stage](cli.model, datamodule=cli.datamodule, verbose=False)
    return {name.removeprefix(f"{stage}/"): float(value) for name, value in cli.trainer.callback_metrics.items()}


@pytest.mark.parametrize("stage", ["val", "test"])
def test_one_process_finds_the_metrics_of_two_to_the_last_digit(pair: Path, stage: str) -> None:
    metrics, found = metrics_of_one_process(pair, stage), summary_of(pair / RUN)[stage]
    assert 0 < metrics["acc"] < 1
    for name in ("acc", "loss", "numbers"):
        assert metrics[name] == found[f"{stage}/{name}"]


@pytest.mark.parametrize("stage", ["val", "test"])
def test_one_process_finds_the_means_that_lightning_takes_of_two(pair: Path, stage: str) -> None:
    mean = metrics_of_one_process(pair, stage)["mean"]
    assert mean == pytest.approx(summary_of(pair / RUN)[stage][f"{stage}/mean"], rel=1e-6)


def test_two_processes_train_as_one_does_which_can_go_on_with_their_run(pair: Path, command: Command) -> None:
    shutil.copytree(pair / RUN, RUN)
    done = command("fit", *ARGS, *STOPPING, "--name", "one")
    assert (done.status, done.err) == (0, "")
    one = RUN.parents[1] / "one" / "version_0"
    check_same_training(RUN, one, 18)
    assert len(list(one.glob("events.*"))) == len(list(RUN.glob("events.*")))
    both, alone = summary_of(RUN), summary_of(one)
    assert (alone["stopped"], alone["best_epoch"]) == (both["stopped"], both["best_epoch"])
    for name in ("acc", "loss"):
        assert both["val"][f"val/{name}"] == pytest.approx(alone["val"][f"val/{name}"], abs=1 / 33)

    more = ["--early_stopping.patience", "50"]
    done = command("fit", "--resume", RUN, *ONE, *more)
    assert (done.status, done.err) == (0, "")
    assert "changed: trainer.devices 2 → 1" in done.out
    assert "warning" not in done.out
    check_files(RUN)
    assert command("fit", *ARGS, *more, "--name", "longer").status == 0
    check_same_training(RUN, RUN.parents[1] / "longer" / "version_0", 30)
    assert summary_of(RUN)["stopped"] == "trainer.max_epochs 5 reached"


def test_two_processes_can_go_on_with_the_run_of_one(command: Command, tmp_path: Path) -> None:
    within = ["--trainer.max_steps", "9"]  # in the middle of the second epoch
    done = command("fit", *ARGS, *within, "--name", "run")
    assert (done.status, done.err) == (0, "")
    with running(tmp_path, "--resume", RUN, *DDP, "--trainer.max_steps", "21") as fit:
        assert (fit.end(120), fit.err) == (0, "")
    assert "changed: trainer.devices auto → 2" in fit.out
    assert "warning" not in fit.out
    assert f"going on with {RUN} from last.ckpt" in fit.out
    assert last_steps(fit.marks) == {"0": 20, "1": 20}
    assert not [mark for mark in fit.marks if mark.startswith("train 8")], "no step is done again"
    check_files(RUN)
    assert command("fit", *ARGS, "--trainer.max_steps", "21", "--name", "longer").status == 0
    check_same_training(RUN, RUN.parents[1] / "longer" / "version_0", 21)
