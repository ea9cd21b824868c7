"""Two processes on one machine, over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.evaluate import open_run
from tests.conftest import ROOT, SMALL


def fit(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(ROOT / "scripts" / "fit.py"), *SMALL]
    line += ["--config", str(ROOT / "configs" / "trainer" / "ddp.yaml")]
    line += ["--trainer.accelerator", "cpu", "--trainer.devices", "2", *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=150, check=False)


def test_two_processes_train_one_run_whose_numbers_one_process_confirms(tmp_path: Path) -> None:
    done = fit(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("best checkpoint") == 1
    assert done.stdout.count("epoch   0") == 1
    assert "2 x cpu, 19 steps an epoch" in done.stdout
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
    done = fit(tmp_path, "--data.batch_size", "63")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert set(lines) == {
        "error: data.batch_size: 63 is shared by 2 devices and must be a multiple of that; nearest is 64"
    }
    assert done.stderr.splitlines() == lines, "and nothing else"
    assert not list(tmp_path.glob("lightning_logs/*/*"))
