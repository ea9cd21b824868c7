"""Two processes on one machine, over gloo."""

import json
from pathlib import Path

import pytest
import torch

from scripts.evaluate import open_run
from tests.conftest import ROOT, SMALL
from tests.processes import running

DEVICES = ["--config", str(ROOT / "configs/trainer/ddp.yaml"), "--trainer.accelerator", "cpu", "--trainer.devices", "2"]


def test_two_processes_train_one_run_whose_numbers_one_process_confirms(tmp_path: Path) -> None:
    with running(tmp_path, *SMALL, *DEVICES) as fit:
        assert (fit.end(), fit.err) == (0, "")
    assert fit.out.count("best checkpoint") == 1
    assert fit.out.count("epoch   0") == 1
    assert "2 x cpu, 19 steps an epoch" in fit.out
    run = tmp_path / "lightning_logs" / "cnn" / "version_0"
    assert list(run.parent.iterdir()) == [run]
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 38
    summary = json.loads((run / "summary.json").read_text())
    for stage, key in (("validate", "val"), ("test", "test")):
        cli, _ = open_run(str(run), "best", ["--trainer.devices=1", "--trainer.strategy=auto"])
        getattr(cli.trainer, stage)(cli.model, datamodule=cli.datamodule, verbose=False)
        metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
        assert metrics[f"{key}/acc"] == summary[key][f"{key}/acc"]
        assert metrics[f"{key}/loss"] == pytest.approx(summary[key][f"{key}/loss"], rel=1e-6)


def test_a_batch_that_two_processes_can_not_share_is_one_line(tmp_path: Path) -> None:
    with running(tmp_path, *SMALL, *DEVICES, "--data.batch_size", "63") as fit:
        assert fit.end() == 2
    lines = [line for line in fit.err.splitlines() if line.startswith("error:")]
    assert set(lines) == {
        "error: data.batch_size: 63 is shared by 2 devices and must be a multiple of that; nearest is 64"
    }
    assert fit.err.splitlines() == lines, "and nothing else"
    assert not list(tmp_path.glob("lightning_logs/*/*"))
