"""The MLP recipe next to scikit-learn's own MLP, on the same split: how good, and how long.

usage: python benchmarks/tables.py [--seeds 5]
       python benchmarks/tables.py --memory MEGABYTES [MEGABYTES …]

Both are measured on the same test part, which neither has seen, the mean over the seeds. This project's trains on the
training part and stops early on the validation part; scikit-learn's is given both, prepared in the same way, with as
many units and layers, its defaults otherwise and as many iterations as it wants, once without and once with its own
early stopping, which splits a tenth off. The ratio is to the better one of the two.

With --memory: CSV files of these sizes are written and made ready for training, each in a process of its own, with the
prepared matrix on the disk. Printed is what the process held in memory at its highest, above what it held before,
without the pages of that matrix, which the system takes back when it needs them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

HOME = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HOME))

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from datamodules import BreastCancer, Diabetes

CASES = {
    "diabetes": (["--config", "configs/mlp.yaml"], Diabetes, MLPRegressor, "test/rmse"),
    "breast cancer": (
        ["--config", "configs/mlp_classes.yaml"],
        BreastCancer,
        MLPClassifier,
        "test/acc",
    ),
}


def ours(args: list[str], seed: int) -> tuple[dict[str, float], float]:
    """Metrics of the test part, and the seconds of the training."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HOME / "scripts/fit.py"), *args, "--seed_everything", str(seed), "--name", "run"]
        command = [arg if not arg.startswith("configs/") else str(HOME / arg) for arg in command]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        found = json.loads(Path(folder, "lightning_logs/run/version_0/summary.json").read_text())
    return found["test"], found["seconds"]


def theirs(data: type, estimator: type, seed: int, early: bool) -> tuple[float, float]:
    """RMSE or accuracy on the test part, and the seconds of the training."""
    table = data()
    table.setup("fit")
    x, y = table.inputs.numpy(), table.labels.numpy().squeeze()
    parts = {name: rows.numpy() for name, rows in table.parts.items()}
    rest = np.concatenate([parts["train"], parts["val"]])
    regression = estimator is MLPRegressor
    mean, std = (table.target_mean[0], table.target_std[0]) if regression else (0, 1)
    target = (y - mean) / std if regression else y
    chosen = estimator(hidden_layer_sizes=(64, 64), early_stopping=early, max_iter=1000, random_state=seed)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        chosen.fit(x[rest], target[rest])
    took = time.perf_counter() - started
    found = chosen.predict(x[parts["test"]])
    if regression:
        return float(((found * std + mean - y[parts["test"]]) ** 2).mean() ** 0.5), took
    return float((found == y[parts["test"]]).mean()), took


MEASURED = """
import sys, threading, time
import psutil, torch
from datamodules import TableRegression
process, highest, done = psutil.Process(), [0], []

def held():
    found = process.memory_info()
    return found.rss - found.shared

def watch():
    while not done:
        highest[0] = max(highest[0], held())
        time.sleep(0.01)

before = held()
threading.Thread(target=watch, daemon=True).start()
started = time.perf_counter()
table = TableRegression(sys.argv[1], "y", memory_mb=0, cache_dir=sys.argv[2])
table.setup("fit")
for batch in table.train_dataloader():
    break
done.append(1)
print((highest[0] - before) / 2**20, len(table.labels), time.perf_counter() - started)
"""


def memory(sizes: Sequence[int]) -> None:
    """How much memory it takes to make files ready."""
    print(f"{'MB of file':>10}{'rows':>12}{'MB held':>9}{'seconds':>9}")
    random = np.random.default_rng(0)
    kinds = np.array(["red", "green", "blue", "a longer kind"])
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "x.csv")
            with path.open("w") as file:
                names = [f"column {i}" for i in range(10)]
                file.write(",".join([*names, "kind", "y"]) + "\n")
                while file.tell() < size * 2**20:
                    values = random.normal(size=(20_000, 11))
                    chosen = kinds[random.integers(0, 4, 20_000)]
                    rows = (
                        ",".join([*(f"{v:.6f}" for v in row[:10]), kind, f"{row[10]:.4f}"])
                        for row, kind in zip(values.tolist(), chosen, strict=True)
                    )
                    file.write("\n".join(rows) + "\n")
            command = [sys.executable, "-c", MEASURED, str(path), folder]
            done = subprocess.run(command, cwd=HOME, check=True, capture_output=True, text=True)
            held, rows_there, took = map(float, done.stdout.split())
            print(f"{path.stat().st_size / 2**20:>10.0f}{rows_there:>12,.0f}{held:>9.0f}{took:>9.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--memory", type=int, nargs="+")
    given = parser.parse_args()
    if given.memory:
        memory(given.memory)
        return
    seeds = range(given.seeds)
    print(f"{'data':<15}{'metric':<10}{'this':>9}{'sklearn':>9}{'early':>9}{'ratio':>8}{'seconds':>9}{'sklearn':>9}")
    for name, (args, data, estimator, metric) in CASES.items():
        own = [ours(args, seed) for seed in seeds]
        plain, early = ([theirs(data, estimator, seed, stop) for seed in seeds] for stop in (False, True))
        values = [fmean(found[metric] for found, _ in own), fmean(v for v, _ in plain), fmean(v for v, _ in early)]
        better = min(values[1:]) if "rmse" in metric else max(values[1:])
        print(
            f"{name:<15}{metric:<10}{values[0]:>9.4f}{values[1]:>9.4f}{values[2]:>9.4f}{values[0] / better:>8.3f}"
            f"{fmean(seconds for _, seconds in own):>9.2f}{fmean(s for _, s in plain):>9.2f}"
        )


if __name__ == "__main__":
    main()
