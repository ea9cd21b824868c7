"""When to stop and what to keep: training to the end, early stopping, and averages of the weights, side by side.

usage: python benchmarks/early_stopping.py [--seeds 3] [--epochs 40]

configs/cnn.yaml without augmentation and with half of its training part held out for validation, so that 718 digits
train; once at a constant learning rate and once with the recipe's schedule, which ends at next to nothing. Of each way
the mean over seeds: epochs trained, seconds of training, the best validation loss, and of the test (360 digits) the
loss and the accuracy of the weights that one would take: the last ones where nothing looks at the validation, and those
of the best validation loss otherwise.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

HOME = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HOME))

from runs.events import read_log
from scripts.fit import fit
from scripts.main import main as run_command

FEW = ["--data.val_fraction=0.5", "--data.augment={}"]
PATIENCE = 5
TO_THE_END = "--early_stopping.patience=1000"
STOPPING = f"--early_stopping.patience={PATIENCE}"
LAST = "--checkpoint.monitor=null"  # then the last weights are tested
EMA = ["--averaging.method=ema", "--averaging.decay=0.99"]  # over about five epochs of 11 steps
SWA = ["--averaging.method=swa"]
RATES = {"constant rate": ["--lr_scheduler=null"], "the recipe's schedule": []}
WAYS = {
    "to the end, last weights": [TO_THE_END, LAST],
    "to the end, best weights": [TO_THE_END],
    "early stopping": [STOPPING],
    "EMA to the end, last weights": [TO_THE_END, LAST, *EMA],
    "EMA and early stopping": [STOPPING, *EMA],
    "SWA to the end, last weights": [TO_THE_END, LAST, *SWA],
}


def measured(keys: list[str], seed: int, epochs: int) -> dict[str, float]:
    """What is in the table, of one run."""
    args = ["--config", str(HOME / "configs/cnn.yaml"), *FEW, f"--trainer.max_epochs={epochs}"]
    args += [f"--seed_everything={seed}", "--name=run", "--trainer.enable_progress_bar=false", *keys]
    with contextlib.redirect_stdout(io.StringIO()):
        status = run_command(fit, args)
    if status:
        sys.exit(status)
    run = max(Path("lightning_logs/run").iterdir(), key=lambda path: int(path.name.split("_")[1]))
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return {
        "epochs": summary["last_epoch"] + 1,
        "seconds": summary["seconds"],
        "val loss": float(read_log(run).curves["val/loss"].values.min()),
        "test loss": summary["test"]["test/loss"],
        "test acc": summary["test"]["test/acc"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    given = parser.parse_args()
    print(f"{'':22} {'':29} epochs  seconds  val loss  test loss  test acc")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for rate, schedule in RATES.items():
            for way, keys in WAYS.items():
                found = [measured([*schedule, *keys], seed, given.epochs) for seed in range(given.seeds)]
                mean = {name: fmean(run[name] for run in found) for name in found[0]}
                print(
                    f"{rate:22} {way:29} {mean['epochs']:6.1f}  {mean['seconds']:7.1f}  {mean['val loss']:8.4f}  "
                    f"{mean['test loss']:9.4f}  {mean['test acc']:8.4f}",
                    flush=True,
                )
        os.chdir(HOME)


if __name__ == "__main__":
    main()
