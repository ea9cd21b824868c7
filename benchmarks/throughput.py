"""This project's `fit`, with everything on, next to two hand-written loops, on the same model, data and batch size.

usage: python benchmarks/throughput.py [--rounds 3] [--case NAME] [--json FILE]

(a)  a loop as in PyTorch's tutorial: a Dataset that makes each stored image a float tensor, a DataLoader
(a') the same over floats that were made before, in a TensorDataset
(b)  the tightest loop over floats in memory: index, forward, backward, step
(c)  the fit: stored bytes, normalised on the way

They take turns in one process, so that what disturbs the machine disturbs all three; the table shows medians over
the rounds, and the median of the ratios within a round. The time of (c) is all from the first to the last step
(metrics, TensorBoard, progress, checkpoints) but validation, which (a) and (b) do not have. Its samples are counted
by what it trained on, and the others are given as many. Memory is the most that a loop added to the process.
"""

import argparse
import contextlib
import inspect
import io
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from scripts.fitting import FitCLI  # isort: skip  (before torch: it sets how threads wait)
from scripts.main import quiet  # isort: skip  (before torch: it sets how threads wait)

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.data import SyntheticImages
from modules.nets import CNN, MLP

CASES = [
    ("cnn, batch 64", CNN, {"width": 24, "depth": 2}, 64, 300),
    ("cnn, batch 256", CNN, {"width": 24, "depth": 2}, 256, 60),
    ("mlp, batch 256", MLP, {"width": 32, "depth": 1}, 256, 300),
]
LOOPS = ("a", "a'", "b", "c")
REQUIRED = {"cnn, batch 64": ("c/a", 1.0), "cnn, batch 256": ("c/b", 0.85), "mlp, batch 256": ("c/a", 0.9)}


@dataclass
class Measured:
    """Steps per second and added megabytes of one loop, one of each for every round."""

    steps: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


class AsStored(Dataset[tuple[Tensor, Tensor]]):
    """The tutorial's way of giving out images: stored as bytes, each made a normalised float tensor when asked for."""

    def __init__(self, images: Tensor, labels: Tensor, mean: float, std: float) -> None:
        self.images, self.labels = images, labels
        self.mean, self.std = mean, std

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return (self.images[i].float() - self.mean) / self.std, self.labels[i]


def tutorial_loop(net: nn.Module, dataset: Dataset[Any], batch_size: int, epochs: int) -> int:
    """(a): what https://docs.pytorch.org/tutorials/beginner/basics/optimization_tutorial.html teaches."""
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    loss_fn = nn.CrossEntropyLoss()
    net.train()
    for _ in range(epochs):
        for i, (x, y) in enumerate(loader):
            loss = loss_fn(net(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if i % 100 == 0:
                loss.item()
    return epochs * len(loader)


def tight_loop(net: nn.Module, images: Tensor, labels: Tensor, batch_size: int, epochs: int) -> int:
    """(b): indexing, forward, backward, step, and nothing else."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    net.train()
    steps = 0
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(batch_size):
            if len(chosen) == batch_size:
                F.cross_entropy(net(images[chosen]), labels[chosen]).backward()
                optimizer.step()
                optimizer.zero_grad()
                steps += 1
    return steps


def make_fit(net: type[nn.Module], net_args: dict[str, Any], batch_size: int, samples: int, epochs: int) -> FitCLI:
    """(c), ready to train: the project's command line, with its defaults."""
    args = [
        "--model=modules.Classifier",
        f"--model.net=modules.nets.{net.__name__}",
        *(f"--model.net.{key}={value}" for key, value in net_args.items()),
        "--data=benchmarks.data.SyntheticImages",
        f"--data.batch_size={batch_size}",
        f"--data.samples={samples}",
        "--optimizer=torch.optim.AdamW",
        "--optimizer.lr=1e-3",
        "--optimizer.fused=true",
        f"--trainer.max_epochs={epochs}",
    ]
    return FitCLI(args)


def measure_case(
    net: type[nn.Module], net_args: dict[str, Any], batch_size: int, steps: int, rounds: int
) -> dict[str, Measured]:
    """All three loops in turn, `rounds` times, each for two epochs of `steps` steps."""
    epochs = 2
    data = SyntheticImages(batch_size=batch_size, samples=steps * batch_size)
    data.setup("fit")
    stored, labels = data.images[data.parts["train"]], data.labels[data.parts["train"]]
    mean, std = data.facts["mean"][0], data.facts["std"][0]
    known = {"in_channels": data.in_channels, "image_size": data.image_size, "num_classes": data.num_classes}
    known |= {"in_features": data.in_channels * prod(data.image_size), "num_outputs": data.num_classes}
    facts = {name: known[name] for name in inspect.signature(net).parameters if name in known}
    results = {name: Measured() for name in LOOPS}

    def by_hand(loop: Callable[[nn.Module], int]) -> tuple[int, float]:
        model = net(**facts, **net_args)
        started = time.perf_counter()
        return loop(model), time.perf_counter() - started

    def tutorial() -> tuple[int, float]:
        dataset = AsStored(stored, labels, mean, std)
        return by_hand(lambda model: tutorial_loop(model, dataset, batch_size, epochs))

    def tutorial_of_floats() -> tuple[int, float]:
        dataset = TensorDataset((stored.float() - mean) / std, labels)
        return by_hand(lambda model: tutorial_loop(model, dataset, batch_size, epochs))

    def tight() -> tuple[int, float]:
        images = (stored.float() - mean) / std
        return by_hand(lambda model: tight_loop(model, images, labels, batch_size, epochs))

    def fit() -> tuple[int, float]:
        cli = make_fit(net, net_args, batch_size, steps * batch_size, epochs)
        with contextlib.redirect_stdout(io.StringIO()):
            cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        return cli.trainer.global_step, cli.record.seconds - cli.record.validation_seconds

    runs = {"a": tutorial, "a'": tutorial_of_floats, "b": tight, "c": fit}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            with peak_memory() as peak:
                done, seconds = run()
            if round_ > 0:  # the first one warms up
                results[name].steps.append(done / seconds)
                results[name].memory.append(peak[0])
    return results


@contextlib.contextmanager
def peak_memory() -> Iterator[list[float]]:
    """The most megabytes that the process grew by meanwhile, looked at every 20 ms; NaN where /proc is missing."""
    statm = Path("/proc/self/statm")
    page = os.sysconf("SC_PAGE_SIZE") / 2**20 if statm.exists() else float("nan")
    resident = (lambda: int(statm.read_text().split()[1]) * page) if statm.exists() else (lambda: float("nan"))
    before, peak, done = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], resident() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def summarise(name: str, results: dict[str, Measured], batch_size: int) -> dict[str, Any]:
    """Medians of one case, in plain types."""
    row: dict[str, Any] = {"case": name}
    for loop, measured in results.items():
        steps = statistics.median(measured.steps)
        row[loop] = {"steps/s": steps, "samples/s": steps * batch_size, "MB": statistics.median(measured.memory)}
    for other in ("a", "a'", "b"):
        ratios = [c / o for c, o in zip(results["c"].steps, results[other].steps, strict=True)]
        row[f"c/{other}"] = statistics.median(ratios)
    return row


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table("case", "loop", "steps/s", "samples/s", "peak MB", "c/a", "c/a'", "c/b", "required")
    for row in rows:
        kind, least = REQUIRED[row["case"]]
        for loop in LOOPS:
            cells = [f"{row[loop]['steps/s']:.1f}", f"{row[loop]['samples/s']:,.0f}", f"{row[loop]['MB']:.0f}"]
            ratios = [f"{row[f'c/{other}']:.2f}" for other in LOOPS[:-1]] + [f"{kind} ≥ {least}"]
            table.add_row(
                *(row["case"] if loop == "a" else "", loop, *cells),
                *(ratios if loop == "c" else [""] * len(ratios)),
                end_section=loop == "c",
            )
    Console(width=110).print(table)


def main() -> None:
    """Measure, print, and write JSON when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=[case[0] for case in CASES], help="one of the cases only")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    out = given.json.resolve() if given.json else None
    quiet()
    rows = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, net, net_args, batch_size, steps in CASES:
            if given.case not in (None, name):
                continue
            rows.append(summarise(name, measure_case(net, net_args, batch_size, steps, given.rounds), batch_size))
    show(rows)
    if out:
        out.write_text(json.dumps({"threads": torch.get_num_threads(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
